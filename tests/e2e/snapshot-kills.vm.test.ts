/**
 * kill -9 of the agent in the middle of hibernations, wakes, snapshots, forks, creations and deletions, and now and
 * then of the one that comes after it as well, at moments drawn from a seed. Whatever was acknowledged is whole
 * afterwards, what was not is whole or not there, and nothing else is left. `WRENN_KILL_ROUNDS` makes it longer.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Sandbox, SandboxState } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  type AgentProcess,
  createSandbox,
  exec,
  PATIENCE,
  prepareAgent,
  remains,
  startAgentProcess,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

const ROUNDS = Number(process.env.WRENN_KILL_ROUNDS ?? 12);
const SEED = Number(process.env.WRENN_KILL_SEED ?? Date.now() % 1_000_000);
/** An agent that starts has done all that it does by then. */
const START_MS = 700 * PATIENCE;
/** One agent in so many is killed while it finds out what the last one has left. */
const KILL_STARTS = 3;
const SNAPSHOTS_KEPT = 2;
const { RUNNING, HIBERNATED, FAILED } = SandboxState;
const COPY = { template: '', vcpus: undefined, memoryMib: undefined, diskMib: undefined };

const REMEMBER = `head -c 3000000 /dev/urandom > /dev/shm/memory; head -c 3000000 /dev/urandom > /root/disk
  head -c 1000000 /dev/zero > /dev/shm/zero
  md5sum /dev/shm/memory /dev/shm/zero /root/disk > /dev/shm/sums`;
const COUNT = `setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > /dev/shm/next; mv /dev/shm/next /dev/shm/count
  sleep 0.05; done' > /dev/null 2>&1 < /dev/null &
  while ! test -e /dev/shm/count; do sleep 0.05; done`;
/** What was written is there, and what ran goes on. */
const CHECK = `md5sum -c /dev/shm/sums > /dev/null && was=$(cat /dev/shm/count) || exit 3
  for i in $(seq 200); do test $(cat /dev/shm/count) -gt $was && echo $was && exit 0; sleep 0.02; done; exit 4`;

let files: TestAgentFiles;
let agent: AgentProcess;
/** The one that everything is done to; what it last counted. */
let base: Sandbox;
let counted = 0;
/** Snapshots that the agent has said are there. */
const acknowledged = new Set<string>();

beforeAll(async () => {
  files = await prepareAgent(21);
  agent = await startAgentProcess(files);
}, 120_000 * PATIENCE);
afterAll(async () => {
  for (const { id } of await listed().catch(() => [])) {
    await agent.client.sandboxes.destroySandbox({ id }).catch(() => {});
  }
  await agent?.kill('SIGTERM');
  await files?.remove();
}, 120_000 * PATIENCE);

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

const sh = async (id: string, script: string): Promise<string> => {
  const { stdout, stderr, exitCode } = await exec(agent.client, id, ['sh', '-c', script], { user: 'root' });
  if (exitCode !== 0) throw new Error(`exit code ${exitCode} in ${id}: ${stderr}`);
  return stdout;
};
const check = async (id: string): Promise<number> => Number(await sh(id, CHECK));
const listed = async (): Promise<Sandbox[]> => (await agent.client.sandboxes.listSandboxes({})).sandboxes;
const listedSnapshots = async (): Promise<string[]> =>
  (await agent.client.sandboxes.listSnapshots({})).snapshots.map(({ id }) => id).sort();
const destroy = (id: string): Promise<unknown> => agent.client.sandboxes.destroySandbox({ id });
const takeSnapshot = async (): Promise<string> =>
  (await agent.client.sandboxes.snapshotSandbox({ id: base.id })).snapshot?.id ?? '';
const namesIn = (...path: string[]): Promise<string[]> => readdir(join(files.dir, ...path));

/** What the agent has acknowledged by the time that it is killed; the rest may or may not have happened. */
interface Acknowledged {
  /** The base's; undefined for either. */
  readonly state?: SandboxState;
  readonly created?: readonly string[];
  readonly snapshot?: string;
  readonly deleted?: string;
}

interface Operation {
  /** What must be so before; not killed. Returns what `run` is given. */
  prepare?(): Promise<string>;
  run(prepared: string): Promise<Acknowledged>;
  /** What may not be there afterwards, even without an acknowledgement. */
  readonly endangers?: 'state' | 'prepared';
}

const OPERATIONS: Readonly<Record<string, Operation>> = {
  hibernate: {
    endangers: 'state',
    run: async () => {
      await agent.client.sandboxes.hibernateSandbox({ id: base.id });
      return { state: HIBERNATED };
    },
  },
  resume: {
    endangers: 'state',
    prepare: async () => {
      await agent.client.sandboxes.hibernateSandbox({ id: base.id });
      return '';
    },
    run: async () => {
      await agent.client.sandboxes.resumeSandbox({ id: base.id });
      return { state: RUNNING };
    },
  },
  snapshot: { run: async () => ({ snapshot: await takeSnapshot() }) },
  fork: {
    run: async () => {
      const { sandboxes } = await agent.client.sandboxes.forkSandbox({ id: base.id, count: 2 });
      return { created: sandboxes.map(({ id }) => id) };
    },
  },
  create: {
    run: async () => {
      const [snapshotId = ''] = acknowledged;
      return { created: [(await createSandbox(agent.client, { ...COPY, snapshotId })).id] };
    },
  },
  delete: {
    endangers: 'prepared',
    prepare: takeSnapshot,
    run: async (id) => {
      await agent.client.sandboxes.deleteSnapshot({ id });
      return { deleted: id };
    },
  },
};

/** Without any kill: how long each takes, so that the kills are spread over all of it. */
async function measure(): Promise<Map<string, number>> {
  const durations = new Map<string, number>();
  for (const [name, operation] of Object.entries(OPERATIONS)) {
    const prepared = (await operation.prepare?.()) ?? '';
    const startedAt = performance.now();
    const { created = [], snapshot, state } = await operation.run(prepared);
    durations.set(name, performance.now() - startedAt);
    for (const id of created) await destroy(id);
    if (snapshot !== undefined) acknowledged.add(snapshot);
    if (state === HIBERNATED) await agent.client.sandboxes.resumeSandbox({ id: base.id });
  }
  return durations;
}

/** Some do not live to answer. */
async function startNext(random: () => number): Promise<number> {
  let killed = 0;
  while (random() < 1 / KILL_STARTS) {
    const doomed = await startAgentProcess(files, String(Math.round(random() * START_MS))).catch(
      () => undefined,
    );
    await doomed?.kill('SIGKILL');
    killed++;
  }
  agent = await startAgentProcess(files);
  return killed;
}

/** What is on the host is what the list says, and nothing more. */
async function checkHost(left: readonly Sandbox[]): Promise<void> {
  const alive = left.filter(({ state }) => state !== FAILED).map(({ id }) => id);
  expect((await namesIn('sandboxes')).sort()).toEqual(alive.sort());
  for (const id of alive) {
    const names = await namesIn('sandboxes', id);
    // The last one, and the first, which that is a delta of.
    expect(names.filter((name) => name.startsWith('hibernation-')).length).toBeLessThanOrEqual(2);
    expect(names.filter((name) => name.endsWith('.tmp'))).toEqual([]);
  }
  if (left.every(({ state }) => state === FAILED || state === HIBERNATED)) {
    expect((await remains(files)).filter((each) => !each.startsWith('directory '))).toEqual([]);
  }
  // A fork's that is of no use any more may be on its way out in the background.
  await until('no draft is left', 10_000, async () =>
    (await namesIn('snapshots')).every((name) => !name.startsWith('.')),
  );
}

async function checkBase(found: Sandbox | undefined, expected: SandboxState | undefined): Promise<void> {
  const { state } = found ?? { state: FAILED };
  if (expected === undefined) expect([RUNNING, HIBERNATED]).toContain(state);
  else expect(state).toBe(expected);
  if (state === HIBERNATED) await agent.client.sandboxes.resumeSandbox({ id: base.id });
  const count = await check(base.id);
  expect(count).toBeGreaterThanOrEqual(counted);
  counted = count;
}

async function checkSnapshot(id: string): Promise<void> {
  const copy = await createSandbox(agent.client, { ...COPY, snapshotId: id });
  await check(copy.id);
  await destroy(copy.id);
}

async function checkSnapshots({ endangers }: Operation, prepared: string, done: Acknowledged): Promise<void> {
  const there = await listedSnapshots();
  for (const id of acknowledged) expect(there).toContain(id);
  if (done.snapshot !== undefined) expect(there).toContain(done.snapshot);
  if (done.deleted !== undefined) expect(there).not.toContain(done.deleted);
  // At most the one that nobody was told of, or the one that was to be deleted.
  const others = there.filter((id) => !acknowledged.has(id));
  expect(others.length).toBeLessThanOrEqual(1);
  if (endangers === 'prepared') expect([[], [prepared]]).toContainEqual(others);
  for (const id of others) {
    await checkSnapshot(id);
    if (acknowledged.size < SNAPSHOTS_KEPT) acknowledged.add(id);
    else await agent.client.sandboxes.deleteSnapshot({ id });
  }
  // Those of forks go with the last copy.
  const kept = await listedSnapshots();
  await until('only what is listed is on the disk', 10_000, async () => {
    return JSON.stringify((await namesIn('snapshots')).sort()) === JSON.stringify(kept);
  });
}

async function round(operation: Operation, afterMs: number, random: () => number): Promise<string> {
  await sh(base.id, REMEMBER);
  const prepared = (await operation.prepare?.()) ?? '';
  let done: Acknowledged | undefined;
  const running = operation.run(prepared).then(
    (acknowledgement) => {
      done = acknowledgement;
    },
    () => {},
  );
  await sleep(afterMs);
  await agent.kill('SIGKILL');
  await running;
  const killedStarts = await startNext(random);

  const left = await listed();
  await checkHost(left);
  const { state, created = [] } = done ?? {};
  const found = left.find(({ id }) => id === base.id);
  await checkBase(found, operation.endangers === 'state' ? state : RUNNING);
  for (const id of created) expect(left.map((each) => each.id)).toContain(id);
  for (const { id, state: itsState, reason } of left.filter((each) => each.id !== base.id)) {
    if (itsState === FAILED) {
      expect(created).not.toContain(id);
      expect(reason).toMatch(/^The agent ended during the creation\./);
    } else {
      expect(itsState).toBe(RUNNING);
      await check(id);
    }
    await destroy(id);
  }
  await checkSnapshots(operation, prepared, done ?? {});
  return `${done === undefined ? 'in the middle' : 'acknowledged'}, ${killedStarts} killed starts`;
}

it(
  `leaves only what is whole (seed ${SEED})`,
  async () => {
    const random = randomFrom(SEED);
    base = await createSandbox(agent.client);
    await sh(base.id, `${REMEMBER}\n${COUNT}`);
    const durations = await measure();
    const names = Object.keys(OPERATIONS);
    for (let i = 0; i < ROUNDS; i++) {
      const name = names[i % names.length] ?? '';
      const operation = OPERATIONS[name];
      if (operation === undefined) throw new Error(`there is no ${name}`);
      // A little longer: what comes right after the answer counts too.
      const afterMs = random() * 1.1 * (durations.get(name) ?? 0);
      const told = `seed ${SEED}, round ${i}: ${name}, killed after ${afterMs.toFixed(0)} ms`;
      const outcome = await round(operation, afterMs, random).catch((cause: unknown) => {
        throw new Error(`${told}: ${cause}`, { cause });
      });
      if (process.env.WRENN_KILL_ROUNDS !== undefined) console.info(`${told}: ${outcome}`);
    }
    for (const id of acknowledged) {
      await checkSnapshot(id);
      await agent.client.sandboxes.deleteSnapshot({ id });
    }
    await destroy(base.id);
    expect(await remains(files)).toEqual([]);
    expect(await namesIn('snapshots')).toEqual([]);
  },
  (120_000 + ROUNDS * 30_000) * PATIENCE,
);
