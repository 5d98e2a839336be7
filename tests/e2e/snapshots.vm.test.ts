/** Sandboxes that hibernate, are copied and forked, on real microVMs. */
import { open, readdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  type AgentClient,
  createAgentClient,
  parseConfig,
  type RunningAgent,
  startAgent,
} from '@wrenn/agent';
import { CONSOLE_INIT_STARTED } from '@wrenn/protocol';
import { type Sandbox, SandboxState } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  codeOf,
  createSandbox,
  exec,
  PATIENCE,
  prepareAgent,
  REQUEST,
  remains,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

const { RUNNING, HIBERNATED } = SandboxState;
const MIB = 1024 * 1024;
const MEMORY_BYTES = REQUEST.memoryMib * MIB;

let files: TestAgentFiles;
let agent: RunningAgent;
let client: AgentClient;

beforeAll(async () => {
  files = await prepareAgent(8);
  agent = await startAgent({ config: parseConfig(files.config) });
  client = createAgentClient({ socketPath: agent.socketPath });
});
afterAll(async () => {
  // Of a test that has failed.
  const { sandboxes } = (await client?.sandboxes.listSandboxes({})) ?? { sandboxes: [] };
  for (const { id } of sandboxes) await client.sandboxes.destroySandbox({ id }).catch(() => {});
  client?.close();
  await agent?.stop();
  await files?.remove();
});

const sh = async (sandbox: Sandbox, script: string): Promise<string> => {
  const { stdout, stderr, exitCode } = await exec(client, sandbox.id, ['sh', '-c', script], { user: 'root' });
  if (exitCode !== 0) throw new Error(`exit code ${exitCode}: ${stderr}`);
  return stdout;
};
const restartAgent = async (): Promise<void> => {
  client.close();
  await agent.stop();
  agent = await startAgent({ config: parseConfig(files.config) });
  client = createAgentClient({ socketPath: agent.socketPath });
};
const memoryOf = (id: string, hibernation: number): string =>
  join(files.dir, 'sandboxes', id, `hibernation-${hibernation}`, 'memory');
const logsOf = async (id: string): Promise<string[]> => {
  let text = '';
  for await (const { data } of client.sandboxes.streamLogs({ id, follow: false }))
    text += Buffer.from(data).toString();
  return text.split('\n').map((line) => line.trim());
};
const isStart = (line: string): boolean => line.includes(CONSOLE_INIT_STARTED);
const flipByte = async (path: string, at: number): Promise<void> => {
  const file = await open(path, 'r+');
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, at);
  await file.write(Buffer.from([(byte[0] ?? 0) ^ 0xff]), 0, 1, at);
  await file.close();
};
const destroy = async (...sandboxes: Sandbox[]): Promise<void> => {
  for (const { id } of sandboxes) await client.sandboxes.destroySandbox({ id });
};
/** Everything that the kernel holds; a sandbox that hibernates has its directory alone. */
const heldByKernel = async (): Promise<string[]> =>
  (await remains(files)).filter((each) => !each.startsWith('directory '));

/** Memory, a disk, and a process that counts: whatever a hibernation could lose. */
const REMEMBER = `
  head -c 8000000 /dev/urandom > /dev/shm/memory
  head -c 8000000 /dev/urandom > /root/disk
  md5sum /dev/shm/memory /root/disk > /dev/shm/sums
  exec 9> /root/open; echo one >&9
  setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > /dev/shm/next; mv /dev/shm/next /dev/shm/count
  sleep 0.2; done' > /dev/null 2>&1 < /dev/null &
  while ! test -e /dev/shm/count; do sleep 0.05; done`;
const CHECK = 'md5sum -c /dev/shm/sums > /dev/null && cat /dev/shm/count';

describe('a sandbox that hibernates', () => {
  it('loses nothing, as often as it does, and holds nothing of the host meanwhile', async () => {
    const sandbox = await createSandbox(client, { metadata: { kept: 'yes' }, envs: { GREETING: 'hello' } });
    const { id } = sandbox;
    await sh(sandbox, REMEMBER);
    let before = Number(await sh(sandbox, CHECK));
    for (let round = 1; round <= 3; round++) {
      const { sandbox: asleep } = await client.sandboxes.hibernateSandbox({ id });
      expect(asleep).toMatchObject({ state: HIBERNATED, address: '', vmmPid: 0, metadata: { kept: 'yes' } });
      expect(await heldByKernel()).toEqual([]);
      // All of its memory the first time, and later only what that differs by.
      const names = await readdir(join(files.dir, 'sandboxes', id));
      const hibernations = names.filter((name) => name.startsWith('hibernation-'));
      expect(hibernations.sort()).toEqual([...new Set(['hibernation-1', `hibernation-${round}`])]);
      if (round > 1) expect((await stat(memoryOf(id, round))).size).toBeLessThan(MEMORY_BYTES / 8);
      expect((await logsOf(id)).filter(isStart)).toHaveLength(1);
      expect(await codeOf(sh(sandbox, 'true'))).toBe('sandbox_wrong_state');
      if (round === 2) await restartAgent();
      const { sandbox: awake } = await client.sandboxes.resumeSandbox({ id });
      expect(awake).toMatchObject({ id, state: RUNNING });
      // What it printed before it slept is there, and goes on.
      await sh(sandbox, `echo round ${round} > /dev/console`);
      const printed = async (): Promise<string[]> => {
        const lines = (await logsOf(id)).map((line) => (isStart(line) ? 'start' : line));
        return lines.filter((line) => /^(start|round \d)$/.test(line));
      };
      const expected = ['start', ...[1, 2, 3].slice(0, round).map((each) => `round ${each}`)];
      await expect.poll(printed, { timeout: 30_000 * PATIENCE }).toEqual(expected);
      const after = Number(await sh(sandbox, CHECK));
      expect(after).toBeGreaterThanOrEqual(before);
      before = after;
      const askedAt = Date.now() / 1000;
      const clock = Number(await sh(sandbox, 'date +%s'));
      expect(clock).toBeGreaterThan(askedAt - 4 * PATIENCE);
      expect(clock).toBeLessThan(Date.now() / 1000 + 4 * PATIENCE);
      expect(await sh(sandbox, 'hostname; echo $GREETING')).toBe(`${id}\nhello\n`);
      await until(
        'it counts on',
        10_000,
        async () => Number(await sh(sandbox, 'cat /dev/shm/count')) > after,
      );
    }
    await destroy(sandbox);
    expect(await remains(files)).toEqual([]);
  });

  it('has as zero what was zeroed since, though its parent had something there', async () => {
    const sandbox = await createSandbox(client);
    const { id } = sandbox;
    await sh(sandbox, 'head -c 16000000 /dev/urandom > /dev/shm/page; md5sum /dev/shm/page');
    await client.sandboxes.hibernateSandbox({ id });
    await client.sandboxes.resumeSandbox({ id });
    await sh(sandbox, 'dd if=/dev/zero of=/dev/shm/page bs=4096 count=2000 conv=notrunc 2>/dev/null');
    await client.sandboxes.hibernateSandbox({ id });
    await client.sandboxes.resumeSandbox({ id });
    const zeros = await sh(sandbox, 'head -c 8192000 /dev/shm/page | tr -d "\\000" | wc -c');
    expect(zeros).toBe('0\n');
    expect(
      Number(await sh(sandbox, 'tail -c +8192001 /dev/shm/page | tr -d "\\000" | wc -c')),
    ).toBeGreaterThan(1000);
    await destroy(sandbox);
  });

  it('is refused where its files are not what was written, and sleeps on until they are', async () => {
    const sandbox = await createSandbox(client);
    const { id } = sandbox;
    await sh(sandbox, REMEMBER);
    for (const number of [1, 2]) {
      await client.sandboxes.hibernateSandbox({ id });
      const memory = memoryOf(id, number);
      for (const path of [memory, join(dirname(memory), 'state')]) {
        // A page of the kernel's code in whole memory, of whatever has changed in a delta.
        const at = path === memory && number === 1 ? 20 * MIB : 5_000;
        await flipByte(path, at);
        expect(await codeOf(client.sandboxes.resumeSandbox({ id })), path).toBe('snapshot_corrupt');
        expect((await client.sandboxes.getSandbox({ id })).sandbox?.state).toBe(HIBERNATED);
        expect(await heldByKernel()).toEqual([]);
        await flipByte(path, at);
      }
      await client.sandboxes.resumeSandbox({ id });
      expect(Number(await sh(sandbox, CHECK))).toBeGreaterThan(0);
    }
    await destroy(sandbox);
    expect(await remains(files)).toEqual([]);
  });

  it('can hibernate while it is paused, and be destroyed while it sleeps', async () => {
    const sandbox = await createSandbox(client);
    const { id } = sandbox;
    await client.sandboxes.pauseSandbox({ id });
    await client.sandboxes.hibernateSandbox({ id });
    expect(await codeOf(client.sandboxes.hibernateSandbox({ id }))).toBe('sandbox_wrong_state');
    expect(await codeOf(client.sandboxes.pauseSandbox({ id }))).toBe('sandbox_wrong_state');
    await destroy(sandbox);
    expect(await remains(files)).toEqual([]);
  });
});

describe('copies of a sandbox', () => {
  const IDENTITY =
    'hostname; cat /etc/machine-id /etc/hostname; head -c 32 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid';

  it('go on from the same place, and share no identity and no random bytes', async () => {
    const original = await createSandbox(client, { envs: { WHO: 'parent', KEPT: 'yes' } });
    await sh(original, REMEMBER);
    const { sandboxes } = await client.sandboxes.forkSandbox({ id: original.id, count: 2 });
    expect(sandboxes).toHaveLength(2);
    const all = [original, ...sandboxes];
    const lines = await Promise.all(all.map(async (each) => (await sh(each, IDENTITY)).trim().split('\n')));
    for (const column of [0, 1, 2, 3, 4]) {
      expect(new Set(lines.map((line) => line[column])).size, lines.join('\n')).toBe(all.length);
    }
    for (const each of all) {
      expect(Number(await sh(each, CHECK))).toBeGreaterThan(0);
      expect(await sh(each, 'hostname; echo $KEPT $E2B_SANDBOX_ID')).toBe(`${each.id}\nyes ${each.id}\n`);
    }
    // Each its own from then on.
    await Promise.all(
      all.map((each) => sh(each, `echo ${each.id} > /root/mine; echo ${each.id} > /dev/shm/mine`)),
    );
    for (const each of all) {
      expect(await sh(each, 'cat /root/mine /dev/shm/mine')).toBe(`${each.id}\n${each.id}\n`);
    }
    // A copy hibernates as any other.
    const [first = original] = sandboxes;
    await client.sandboxes.hibernateSandbox({ id: first.id });
    expect((await stat(memoryOf(first.id, 1))).size).toBeLessThan(MEMORY_BYTES / 8);
    await destroy(...all.filter(({ id }) => id !== first.id));
    // Asleep, it is the only one that still needs the snapshot of the fork, and keeps it.
    await restartAgent();
    await client.sandboxes.resumeSandbox({ id: first.id });
    expect(await sh(first, `${CHECK} > /dev/null; cat /root/mine`)).toBe(`${first.id}\n`);
    await destroy(first);
    expect(await remains(files)).toEqual([]);
    // It goes after the last copy, which does not wait for it.
    await until("the copies' snapshot is gone", 30_000, async () => {
      return (await readdir(join(files.dir, 'snapshots'))).length === 0;
    });
  });

  it('are made from a snapshot as long as it is there, which is as long as it is used', async () => {
    const original = await createSandbox(client);
    await sh(original, REMEMBER);
    const { snapshot } = await client.sandboxes.snapshotSandbox({ id: original.id });
    const snapshotId = snapshot?.id ?? '';
    expect(snapshot).toMatchObject({ sandboxId: original.id, memoryMib: REQUEST.memoryMib });
    expect(Number(await sh(original, CHECK))).toBeGreaterThan(0);
    await destroy(original);
    await restartAgent();
    const copy = await createSandbox(client, {
      template: '',
      vcpus: undefined,
      memoryMib: undefined,
      diskMib: undefined,
      snapshotId,
      envs: { ADDED: 'too' },
    });
    expect(copy).toMatchObject({ snapshotId, state: RUNNING });
    expect(copy.phases.map(({ name }) => name).sort()).toEqual(
      ['validate', 'reserve', 'journal', 'layer', 'network', 'launch', 'init'].sort(),
    );
    expect(Number(await sh(copy, CHECK))).toBeGreaterThan(0);
    expect(await sh(copy, 'echo $ADDED')).toBe('too\n');
    expect(await codeOf(client.sandboxes.deleteSnapshot({ id: snapshotId }))).toBe('snapshot_in_use');
    const wrong = { template: '', snapshotId, memoryMib: 1024 };
    expect(await codeOf(createSandbox(client, wrong))).toBe('invalid_argument');
    await destroy(copy);
    await client.sandboxes.deleteSnapshot({ id: snapshotId });
    expect(await codeOf(client.sandboxes.deleteSnapshot({ id: snapshotId }))).toBe('snapshot_not_found');
    expect(await readdir(join(files.dir, 'snapshots'))).toEqual([]);
    expect(await remains(files)).toEqual([]);
  });
});
