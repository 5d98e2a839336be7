/**
 * Hibernations and copies that cannot be finished: a disk that is full to the last block, and VMMs that are killed in
 * the middle. Either it is whole, or it is not there and the error says why.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readdir, rm, statfs, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type AgentClient,
  createAgentClient,
  fromConnectError,
  parseConfig,
  type RunningAgent,
  startAgent,
} from '@wrenn/agent';
import { runCommand } from '@wrenn/host';
import { SandboxState } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  codeOf,
  createSandbox,
  exec,
  killVmm,
  PATIENCE,
  prepareAgent,
  remains,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

const MIB = 1024 * 1024;
const { RUNNING, PAUSED, HIBERNATED, FAILED } = SandboxState;
const COPY = { template: '', vcpus: undefined, memoryMib: undefined, diskMib: undefined };
/** More than a guest that has just booted has, and of it. */
const REMEMBER = `head -c 30000000 /dev/urandom > /dev/shm/memory; head -c 3000000 /dev/urandom > /root/disk; sync
  md5sum /dev/shm/memory /root/disk > /dev/shm/sums
  setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > /dev/shm/next; mv /dev/shm/next /dev/shm/count
  sleep 0.05; done' > /dev/null 2>&1 < /dev/null &
  while ! test -e /dev/shm/count; do sleep 0.05; done`;
/** More of what is not its parent's. */
const CHANGE = `head -c 8000000 /dev/urandom > /dev/shm/memory
  md5sum /dev/shm/memory /root/disk > /dev/shm/sums`;
const CHECK = `md5sum -c /dev/shm/sums > /dev/null && was=$(cat /dev/shm/count) || exit 3
  for i in $(seq 200); do test $(cat /dev/shm/count) -gt $was && echo $was && exit 0; sleep 0.02; done; exit 4`;

let files: TestAgentFiles;
let agent: RunningAgent;
let client: AgentClient;

const startOne = async (): Promise<void> => {
  agent = await startAgent({ config: parseConfig(files.config) });
  client = createAgentClient({ socketPath: agent.socketPath });
};
const stopOne = async (): Promise<void> => {
  const { sandboxes } = (await client?.sandboxes.listSandboxes({})) ?? { sandboxes: [] };
  for (const { id } of sandboxes) await client.sandboxes.destroySandbox({ id });
  client?.close();
  await agent?.stop();
};
const sh = async (id: string, script: string): Promise<string> => {
  const { stdout, stderr, exitCode } = await exec(client, id, ['sh', '-c', script], { user: 'root' });
  if (exitCode !== 0) throw new Error(`exit code ${exitCode}: ${stderr}`);
  return stdout;
};
const check = async (id: string): Promise<number> => Number(await sh(id, CHECK));
const stateOf = async (id: string): Promise<SandboxState | undefined> =>
  (await client.sandboxes.getSandbox({ id })).sandbox?.state;
const namesIn = (...path: string[]): Promise<string[]> => readdir(join(files.dir, ...path));

describe('on a disk that is full', () => {
  let image: string;
  let id: string;

  beforeAll(async () => {
    files = await prepareAgent(22, { limits: { diskReserveMib: 0 } });
    // A file system of its own, and not of memory: the blocks of files that were written late count too.
    image = `${files.dir}.img`;
    await (await open(image, 'wx', 0o600)).close();
    await truncate(image, 700 * MIB);
    await run('mkfs.ext4', '-q', '-F', '-m', '0', '-N', '4096', image);
    await run('mount', '-o', 'loop', image, files.dir);
    // The log must not take what is counted here.
    files = { ...files, config: { ...files.config, log: { level: 'debug', file: `${image}.log` } } };
    await startOne();
    ({ id } = await createSandbox(client));
    await sh(id, REMEMBER);
  }, 120_000 * PATIENCE);
  afterAll(async () => {
    await stopOne().catch(() => {});
    await run('umount', '--lazy', files.dir);
    await files.remove();
    for (const path of [image, `${image}.log`]) await rm(path, { force: true });
  }, 120_000 * PATIENCE);

  async function run(program: string, ...args: string[]): Promise<void> {
    await runCommand(program, args, { timeoutMs: 30_000 * PATIENCE });
  }
  const freeBlocks = async (): Promise<number> => {
    await run('sync', '--file-system', files.dir);
    return (await statfs(files.dir)).bfree;
  };
  /** Leaves so many bytes, or less than a block. */
  const fill = async (leftBytes: number): Promise<void> => {
    const file = await open(join(files.dir, 'full'), 'w');
    try {
      for (let size = MIB; size >= 512; size /= 2) {
        for (;;) {
          const { bavail, bsize } = await statfs(files.dir);
          if (leftBytes > 0 && bavail * bsize - size < leftBytes) break;
          if ((await file.write(Buffer.alloc(size, 1)).catch(() => undefined)) === undefined) break;
          if (leftBytes > 0) await file.sync();
        }
      }
    } finally {
      await file.close();
    }
  };

  const works: Readonly<Record<string, () => Promise<unknown>>> = {
    hibernate: () => client.sandboxes.hibernateSandbox({ id }),
    snapshot: () => client.sandboxes.snapshotSandbox({ id }),
    fork: () => client.sandboxes.forkSandbox({ id, count: 1 }),
  };
  const LEFT: Readonly<Record<string, number>> = {
    'nothing at all': 0,
    'room for its journal': 64 * 1024,
    'room for some of its memory': 20 * MIB,
  };
  const cases = Object.keys(LEFT).flatMap((left) => Object.keys(works).map((what) => ({ left, what })));

  it.each(cases)(
    '$what with $left is told, changes nothing, and gives the room back',
    async ({ left, what }) => {
      const before = await check(id);
      await fill(LEFT[left] ?? 0);
      try {
        const blocks = await freeBlocks();
        const error = await works[what]?.().then(
          () => undefined,
          (reason: unknown) => fromConnectError(reason),
        );
        expect(error).toMatchObject({ code: 'disk_full' });
        expect(error?.hint).toMatch(/make room/);
        expect(await stateOf(id)).toBe(RUNNING);
        expect(await check(id)).toBeGreaterThanOrEqual(before);
        expect(await namesIn('snapshots')).toEqual([]);
        expect((await namesIn('sandboxes', id)).sort()).toEqual(['layer.ext4', 'run', 'sandbox.json']);
        expect(await namesIn('sandboxes')).toEqual([id]);
        expect(await freeBlocks()).toBe(blocks);
      } finally {
        await rm(join(files.dir, 'full'));
      }
    },
  );

  it('a paused one stays paused', async () => {
    await client.sandboxes.pauseSandbox({ id });
    await fill(20 * MIB);
    try {
      for (const work of Object.values(works)) {
        expect(await codeOf(work())).toBe('disk_full');
        expect(await stateOf(id)).toBe(PAUSED);
      }
    } finally {
      await rm(join(files.dir, 'full'));
    }
    await client.sandboxes.resumeSandbox({ id });
    await check(id);
  });

  it('whoever takes what was given back meanwhile, it goes on', async () => {
    // So that not even its journal can be written.
    const path = join(files.dir, 'greedy');
    const next = join(files.dir, 'sandboxes', id, 'hibernation-1');
    // With less the first hibernation would not even be tried.
    await fill(10 * MIB);
    // By nothing but what is built into the shell: no child of it can write on when it has been killed.
    const writes = 'until test -e "$1"; do :; done; while :; do printf %065536d 0 >> "$0"; done';
    const greedy = spawn('sh', ['-c', writes, path, next], { stdio: 'ignore' });
    const ended = once(greedy, 'exit');
    try {
      for (let i = 0; i < 3; i++) {
        expect(await codeOf(client.sandboxes.hibernateSandbox({ id }))).toBe('disk_full');
        expect(await stateOf(id)).toBe(RUNNING);
        await check(id);
      }
    } finally {
      greedy.kill('SIGKILL');
      await ended;
      for (const name of ['full', 'greedy']) await rm(join(files.dir, name), { force: true });
    }
  });

  it('is no harm to what is done when there is room again', async () => {
    const before = await check(id);
    await client.sandboxes.hibernateSandbox({ id });
    expect(await stateOf(id)).toBe(HIBERNATED);
    await client.sandboxes.resumeSandbox({ id });
    expect(await check(id)).toBeGreaterThanOrEqual(before);
    const { snapshot } = await client.sandboxes.snapshotSandbox({ id });
    await client.sandboxes.destroySandbox({ id });
    const copy = await createSandbox(client, { ...COPY, snapshotId: snapshot?.id ?? '' });
    expect(await check(copy.id)).toBeGreaterThanOrEqual(before);
    await client.sandboxes.destroySandbox({ id: copy.id });
    await client.sandboxes.deleteSnapshot({ id: snapshot?.id ?? '' });
    expect(await namesIn('snapshots')).toEqual([]);
    // The mount is the test's.
    expect((await remains(files)).filter((each) => !each.includes(' - ext4 /dev/loop'))).toEqual([]);
  });
});

describe('of a VMM that is killed in the middle', () => {
  /** Quicker than a boot. */
  let origin: string;

  beforeAll(async () => {
    files = await prepareAgent(23);
    await startOne();
    const { id } = await createSandbox(client);
    await sh(id, REMEMBER);
    const { snapshot } = await client.sandboxes.snapshotSandbox({ id });
    origin = snapshot?.id ?? '';
    await client.sandboxes.destroySandbox({ id });
  }, 120_000 * PATIENCE);
  afterAll(async () => {
    await stopOne();
    await files.remove();
  }, 120_000 * PATIENCE);

  /** A share of the time that it takes. */
  const WHEN = [0.1, 0.35, 0.6, 0.85, 1];

  const timeOf = async (work: () => Promise<unknown>): Promise<number> => {
    const startedAt = performance.now();
    await work();
    return performance.now() - startedAt;
  };
  const failed = (id: string): Promise<unknown> =>
    until('it has failed', 30_000, async () => (await stateOf(id)) === FAILED);

  it.each([RUNNING, PAUSED])(
    'a hibernation is whole or told to have failed (from state %i)',
    async (state) => {
      let tookMs = 0;
      for (const when of [undefined, ...WHEN]) {
        const { id, vmmPid } = await createSandbox(client);
        await sh(id, REMEMBER);
        if (state === PAUSED) await client.sandboxes.pauseSandbox({ id });
        const hibernating = codeOf(client.sandboxes.hibernateSandbox({ id }));
        if (when === undefined) {
          tookMs = await timeOf(() => hibernating);
        } else {
          await sleep(when * tookMs);
          try {
            killVmm(vmmPid);
          } catch {
            // It was quicker.
          }
        }
        const outcome = await hibernating;
        if (outcome === 'no error') {
          // What was acknowledged stays, however its VMM has ended.
          await sleep(300 * PATIENCE);
          expect(await stateOf(id)).toBe(HIBERNATED);
          await client.sandboxes.resumeSandbox({ id });
          await check(id);
        } else {
          expect(outcome).toMatch(/^(vmm_died|sandbox_failed|vmm_api_error)$/);
          await failed(id);
        }
        await client.sandboxes.destroySandbox({ id });
        expect(await remains(files)).toEqual([]);
      }
    },
  );

  it.each([RUNNING, PAUSED])('a snapshot is whole or not there (from state %i)', async (state) => {
    let tookMs = 0;
    for (const when of [undefined, ...WHEN]) {
      const { id, vmmPid } = await createSandbox(client, { ...COPY, snapshotId: origin });
      await sh(id, CHANGE);
      if (state === PAUSED) await client.sandboxes.pauseSandbox({ id });
      const copying = codeOf(client.sandboxes.snapshotSandbox({ id }));
      if (when === undefined) {
        tookMs = await timeOf(() => copying);
      } else {
        await sleep(when * tookMs);
        killVmm(vmmPid);
      }
      const outcome = await copying;
      if (when !== undefined) await failed(id);
      await client.sandboxes.destroySandbox({ id });
      const all = (await client.sandboxes.listSnapshots({})).snapshots;
      const snapshots = all.filter((each) => each.id !== origin);
      if (outcome === 'no error') {
        expect(snapshots).toHaveLength(1);
        const [snapshot] = snapshots;
        const copy = await createSandbox(client, { ...COPY, snapshotId: snapshot?.id ?? '' });
        await check(copy.id);
        await client.sandboxes.destroySandbox({ id: copy.id });
        await client.sandboxes.deleteSnapshot({ id: snapshot?.id ?? '' });
      } else {
        expect(snapshots).toEqual([]);
      }
      expect(await namesIn('snapshots')).toEqual([origin]);
      expect(await remains(files)).toEqual([]);
    }
  });
});
