/** Groups on this machine's own kernel, whichever version it has. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type CgroupLimits, type CgroupTree, createCgroupTree } from './cgroup.ts';
import { type CgroupHierarchies, findCgroups } from './cgroup-hierarchies.ts';

const TOP = 'wrenn-wtcgh';
const GROUP = [TOP, 'one'];
const MIB = 1024 * 1024;
const LIMITS: CgroupLimits = { memoryBytes: 64 * MIB, cpus: 0.5, pids: 20 };

const found = await findCgroups();
const children: ChildProcess[] = [];
let hierarchies: CgroupHierarchies;
let tree: CgroupTree;

/** In the order of the controllers, what the kernel made of the limits. */
const FILES = {
  1: {
    memory: ['memory.limit_in_bytes'],
    cpu: ['cpu.cfs_quota_us', 'cpu.cfs_period_us'],
    pids: ['pids.max'],
  },
  2: { memory: ['memory.max', 'memory.oom.group'], cpu: ['cpu.max'], pids: ['pids.max'] },
};
const READ_BACK = {
  1: { memory: [String(64 * MIB)], cpu: ['50000', '100000'], pids: ['20'] },
  2: { memory: [String(64 * MIB), '1'], cpu: ['50000 100000'], pids: ['20'] },
};

function start(script: string): ChildProcess & { pid: number } {
  const child = spawn('/bin/sh', ['-c', script], { stdio: ['pipe', 'ignore', 'ignore'] });
  children.push(child);
  if (child.pid === undefined) throw new Error('it did not start');
  return Object.assign(child, { pid: child.pid });
}

describe.skipIf(found.version === 'none')('a group of this kernel', () => {
  beforeEach(async () => {
    if (found.version === 'none') throw new Error(found.reason);
    hierarchies = found;
    tree = createCgroupTree(found);
    await tree.make(GROUP, LIMITS);
  });

  afterEach(async () => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
    for (const name of [GROUP, [TOP]]) {
      for (let left = 100; !(await tree.remove(name)) && left > 0; left--) await sleep(20);
    }
    expect(await tree.children([TOP])).toEqual([]);
    expect(await tree.remove([TOP])).toBe(true);
  });

  it('has its limits', async () => {
    for (const [controller, root] of hierarchies.roots) {
      const files = FILES[hierarchies.version][controller];
      const values = await Promise.all(files.map((file) => readFile(join(root, ...GROUP, file), 'utf8')));
      expect(values.map((value) => value.trim())).toEqual(READ_BACK[hierarchies.version][controller]);
    }
  });

  it('holds those that were moved into it and their children, and goes when they have gone', async () => {
    const parent = start('read go; sleep 60 & wait');
    expect(await tree.enter(GROUP, parent.pid)).toBe(true);
    parent.stdin?.end('go\n');
    while ((await tree.members(GROUP)).length < 2) await sleep(10);
    const pids = await tree.members(GROUP);
    expect(pids).toContain(parent.pid);
    expect(await tree.remove(GROUP)).toBe(false);
    const cgroups = await readFile(`/proc/${parent.pid}/cgroup`, 'utf8');
    const lines = cgroups.split('\n').filter((line) => line.endsWith(`/${GROUP.join('/')}`));
    expect(lines).toHaveLength(new Set(hierarchies.roots.values()).size);
    for (const pid of pids) process.kill(pid, 'SIGKILL');
    await once(parent, 'exit');
    for (let left = 100; !(await tree.remove(GROUP)) && left > 0; left--) await sleep(10);
    expect(await tree.children([TOP])).toEqual([]);
  });

  it('is not entered by a process that is gone', async () => {
    const child = start('exit 0');
    await once(child, 'exit');
    expect(await tree.enter(GROUP, child.pid)).toBe(false);
    expect(await tree.members(GROUP)).toEqual([]);
  });

  it('kills who takes too much memory, and tells', async () => {
    expect(await tree.oomKill(GROUP)).toBeUndefined();
    const hog = start('read go; exec tail /dev/zero');
    await tree.enter(GROUP, hog.pid);
    hog.stdin?.end('go\n');
    const [, signal] = await once(hog, 'exit');
    expect(signal).toBe('SIGKILL');
    expect(await tree.oomKill(GROUP)).toEqual({ atOwnLimit: true, limitBytes: LIMITS.memoryBytes });
  });

  it('lets nobody start more than its share of processes', async () => {
    const many = start('read go; for i in $(seq 40); do sleep 60 & done; wait');
    await tree.enter(GROUP, many.pid);
    many.stdin?.end('go\n');
    // The shell gives up at the first that it cannot start.
    await once(many, 'exit');
    const pids = await tree.members(GROUP);
    expect(pids).toHaveLength(LIMITS.pids - 1);
    for (const pid of pids) process.kill(pid, 'SIGKILL');
  });

  it('gives no more CPU than its share', async () => {
    const busy = start('read go; while :; do :; done');
    await tree.enter(GROUP, busy.pid);
    busy.stdin?.end('go\n');
    await sleep(300);
    const startedAt = performance.now();
    const before = await cpuMs(busy.pid);
    await sleep(2000);
    const share = ((await cpuMs(busy.pid)) - before) / (performance.now() - startedAt);
    expect(share).toBeLessThan(LIMITS.cpus * 1.3);
  });
});

/** User and system time, fields 14 and 15 of /proc/<pid>/stat, in ticks of 10 ms. */
async function cpuMs(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}
