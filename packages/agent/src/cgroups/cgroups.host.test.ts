/** Real groups of this machine's kernel, with real processes in them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findCgroups } from '@wrenn/host';
import { afterEach, describe, expect, it } from 'vitest';
import { type Cgroups, type CgroupsConfig, createCgroups, leftCgroups } from './cgroups.ts';

const PREFIX = 'wtcga';
const ID = 'a2b4c6d8e0f2g4h6i8j0';
const CONFIG: CgroupsConfig = {
  mode: 'required',
  memoryOverheadMib: 32,
  memoryOverheadPerVcpuMib: 8,
  cpuOverheadPercent: 50,
  pidsMax: 64,
};
const GUEST = { memoryMib: 64, vcpus: 2 };

const found = await findCgroups();
const started: ChildProcess[] = [];

function open(change: Partial<CgroupsConfig> = {}): Promise<Cgroups> {
  return createCgroups({ ...CONFIG, ...change, prefix: PREFIX });
}

function soon(timeoutMs = 5000): AbortSignal {
  return AbortSignal.timeout(timeoutMs);
}

/** Waits for a line on its stdin before it does anything: until then it is outside. */
async function startIn(
  cgroups: Cgroups,
  id: string,
  script: string,
): Promise<ChildProcess & { pid: number }> {
  const child = spawn('/bin/sh', ['-c', `read go; ${script}`], { stdio: ['pipe', 'ignore', 'ignore'] });
  started.push(child);
  const { pid } = child;
  if (pid === undefined) throw new Error('it did not start');
  await cgroups.enter(id, [{ pid }]);
  child.stdin?.end('go\n');
  return Object.assign(child, { pid });
}

/** What the kernel says of the sandbox's memory limit, whichever version it is. */
async function memoryLimitBytes(id: string): Promise<number> {
  if (found.version === 'none') return 0;
  const file = found.version === 2 ? 'memory.max' : 'memory.limit_in_bytes';
  return Number(await readFile(join(found.roots.get('memory') ?? '', `wrenn-${PREFIX}`, id, file), 'utf8'));
}

describe.skipIf(found.version === 'none')("a sandbox's cgroup", () => {
  afterEach(async () => {
    for (const child of started.splice(0)) child.kill('SIGKILL');
    // Whatever a test has left, so that the next begins with nothing.
    const cgroups = await open();
    for (const id of await cgroups.strays(new Set())) await cgroups.remove(id, soon());
    await cgroups.stop();
    expect(await leftCgroups(PREFIX)).toEqual([]);
  });

  it('has room for the guest and the VMM around it, and goes with the last process', async () => {
    const cgroups = await open();
    expect(cgroups.complete).toBe(true);
    expect(cgroups.status).toMatch(/^v[12]: memory, cpu, pids$/);
    await cgroups.prepare(ID, GUEST);
    expect(await memoryLimitBytes(ID)).toBe((64 + 32 + 2 * 8) * 1024 * 1024);
    const { pid } = await startIn(cgroups, ID, 'exec sleep 60');
    expect(await readFile(`/proc/${pid}/cgroup`, 'utf8')).toContain(`/wrenn-${PREFIX}/${ID}\n`);
    expect(await leftCgroups(PREFIX)).toEqual([`wrenn-${PREFIX}/${ID}`]);
    await expect(cgroups.remove(ID, soon(100))).rejects.toThrow();
    // While it dies: with some memory to give back first.
    process.kill(pid, 'SIGKILL');
    await cgroups.remove(ID, soon());
    await cgroups.remove(ID, soon());
    expect(await leftCgroups(PREFIX)).toEqual([]);
  });

  it('waits for the memory of a process that was killed to be given back', async () => {
    const cgroups = await open();
    await cgroups.prepare(ID, { memoryMib: 512, vcpus: 1 });
    const hog = await startIn(cgroups, ID, 'exec tail -c 300m /dev/zero');
    await new Promise((resolve) => setTimeout(resolve, 300));
    hog.kill('SIGKILL');
    await cgroups.remove(ID, soon(20_000));
    expect(await leftCgroups(PREFIX)).toEqual([]);
  });

  it('kills the VMM that takes more than its limit, and tells', async () => {
    const cgroups = await open();
    await cgroups.prepare(ID, GUEST);
    expect(await cgroups.whyKilled(ID)).toBeUndefined();
    const hog = await startIn(cgroups, ID, 'exec tail /dev/zero');
    expect(await once(hog, 'exit')).toEqual([null, 'SIGKILL']);
    expect(await cgroups.whyKilled(ID)).toBe(
      'It was killed because it used more memory than its limit of 112 MiB.',
    );
    await cgroups.remove(ID, soon());
  });

  it('of an agent that is gone is found by the next, limits or not', async () => {
    const first = await open();
    await first.prepare(ID, GUEST);
    await first.prepare('kept', GUEST);
    await first.stop();
    const next = await open({ mode: 'off' });
    expect(await next.strays(new Set(['kept']))).toEqual([ID]);
    await next.remove(ID, soon());
    await next.remove('kept', soon());
    await next.prepare('none', GUEST);
    expect(await leftCgroups(PREFIX)).toEqual([]);
    await next.stop();
  });

  it('is not that of an agent with another name', async () => {
    const mine = await open();
    await mine.prepare(ID, GUEST);
    const other = await createCgroups({ ...CONFIG, prefix: 'wtcgb' });
    expect(await other.strays(new Set())).toEqual([]);
    await other.remove(ID, soon());
    await other.stop();
    expect(await leftCgroups(PREFIX)).toEqual([`wrenn-${PREFIX}/${ID}`]);
  });
});
