/**
 * kill -9 of the agent in the middle of hibernations, wakes, snapshots, forks and creations, at moments drawn from a
 * seed. Whatever was acknowledged is whole afterwards, and nothing else is left. `WRENN_KILL_ROUNDS` makes it longer.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SandboxState } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  type AgentProcess,
  createSandbox,
  exec,
  HAS_SNAPSHOTS,
  PATIENCE,
  prepareAgent,
  REQUEST,
  remains,
  startAgentProcess,
  type TestAgentFiles,
} from './agent-fixture.ts';

const ROUNDS = Number(process.env.WRENN_KILL_ROUNDS ?? 6);
const SEED = Number(process.env.WRENN_KILL_SEED ?? Date.now() % 1_000_000);
const LONGEST_MS = 700 * PATIENCE;
const REMEMBER = `head -c 4000000 /dev/urandom > /dev/shm/memory; head -c 4000000 /dev/urandom > /root/disk
  md5sum /dev/shm/memory /root/disk > /dev/shm/sums`;

let files: TestAgentFiles;
let agent: AgentProcess;

beforeAll(async () => {
  files = await prepareAgent(40);
  agent = await startAgentProcess(files);
}, 120_000);
afterAll(async () => {
  await agent?.kill('SIGTERM');
  await files?.remove();
});

/** mulberry32. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const check = async (id: string): Promise<void> => {
  const command = ['sh', '-c', 'md5sum -c /dev/shm/sums'];
  expect(await exec(agent.client, id, command, { user: 'root' })).toMatchObject({ exitCode: 0 });
};
const listed = async () => (await agent.client.sandboxes.listSandboxes({})).sandboxes;

it.skipIf(!HAS_SNAPSHOTS)(
  `leaves only what is whole (seed ${SEED})`,
  async () => {
    const random = randomFrom(SEED);
    const source = await createSandbox(agent.client);
    const { id } = source;
    await exec(agent.client, id, ['sh', '-c', REMEMBER], { user: 'root' });
    const acknowledged = new Set<string>();
    const fromSnapshot = { template: '', vcpus: undefined, memoryMib: undefined, diskMib: undefined };
    const first = (await agent.client.sandboxes.snapshotSandbox({ id })).snapshot?.id ?? '';
    acknowledged.add(first);

    for (let round = 0; round < ROUNDS; round++) {
      const { sandboxes } = agent.client;
      const operations = [
        () => sandboxes.hibernateSandbox({ id }),
        () => sandboxes.hibernateSandbox({ id }).then(() => sandboxes.resumeSandbox({ id })),
        () => sandboxes.snapshotSandbox({ id }).then(({ snapshot }) => acknowledged.add(snapshot?.id ?? '')),
        () => sandboxes.forkSandbox({ id, count: 2 }),
        () => createSandbox(agent.client, { ...fromSnapshot, snapshotId: first }),
      ];
      const which = Math.floor(random() * operations.length);
      const afterMs = random() * LONGEST_MS;
      const under = operations[which]?.().catch(() => {});
      await sleep(afterMs);
      await agent.kill('SIGKILL');
      await under;
      agent = await startAgentProcess(files);

      const told = `seed ${SEED}, round ${round}: operation ${which}, killed after ${afterMs.toFixed(0)} ms`;
      const drafts = (await readdir(join(files.dir, 'snapshots'))).filter((name) => name.startsWith('.'));
      expect(drafts, told).toEqual([]);
      const left = await listed();
      expect(
        left.map((each) => each.id),
        told,
      ).toContain(id);
      for (const each of left) {
        if (each.state === SandboxState.FAILED) {
          expect(each.reason, told).toMatch(/The agent ended during the creation/);
          expect(each.id, told).not.toBe(id);
        } else {
          if (each.state === SandboxState.HIBERNATED)
            await agent.client.sandboxes.resumeSandbox({ id: each.id });
          await check(each.id);
        }
        if (each.id !== id) await agent.client.sandboxes.destroySandbox({ id: each.id });
      }
      const { snapshots } = await agent.client.sandboxes.listSnapshots({});
      for (const snapshotId of acknowledged)
        expect(
          snapshots.map((each) => each.id),
          told,
        ).toContain(snapshotId);
    }

    for (const { id: snapshotId } of (await agent.client.sandboxes.listSnapshots({})).snapshots) {
      const copy = await createSandbox(agent.client, { ...fromSnapshot, snapshotId });
      await check(copy.id);
      await agent.client.sandboxes.destroySandbox({ id: copy.id });
      await agent.client.sandboxes.deleteSnapshot({ id: snapshotId });
    }
    await agent.client.sandboxes.destroySandbox({ id });
    expect(await remains(files)).toEqual([]);
    expect(await readdir(join(files.dir, 'snapshots'))).toEqual([]);
    expect(REQUEST.memoryMib).toBe(source.memoryMib);
  },
  (60_000 + ROUNDS * 30_000) * PATIENCE,
);
