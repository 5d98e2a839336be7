/**
 * kill -9 of the VMM, of what is around it and of the agent, in the middle of all that a sandbox goes through: nothing
 * is left in the end. In the laboratory, as it is about the chain that Firecracker is started by: each program of it
 * is killed by its name, and the jailer is the process that becomes Firecracker.
 */
import { readFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { type Sandbox, SandboxState } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type AgentProcess,
  codeOf,
  createSandbox,
  EXPECTED_DRIVER,
  PATIENCE,
  prepareAgent,
  REQUEST,
  remains,
  startAgentProcess,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

const { RUNNING, PAUSED, HIBERNATED, FAILED } = SandboxState;
const WITH_A_VMM: ReadonlySet<SandboxState | undefined> = new Set([RUNNING, PAUSED]);
const COPY = { template: '', vcpus: undefined, memoryMib: undefined, diskMib: undefined };
/** In the order of the launch, by the names that the kernel knows them by. */
const CHAIN =
  EXPECTED_DRIVER?.driver === 'firecracker'
    ? ['prlimit', 'bwrap', 'setpriv', 'jailer', 'firecracker']
    : ['prlimit', 'nsenter', 'bwrap', 'setpriv', 'qemu-system-x86'];
/** Of the time that it takes undisturbed. */
const SHARES = [0.15, 0.6];
const VICTIMS = ['VMM', 'wrapper', 'agent'] as const;
type Victim = (typeof VICTIMS)[number];

let files: TestAgentFiles;
let agent: AgentProcess;
/** What sandboxes are copies of: quicker than a boot. */
let origin: string;

beforeAll(async () => {
  files = await prepareAgent(24);
  agent = await startAgentProcess(files);
  const { id } = await createSandbox(agent.client);
  const { snapshot } = await agent.client.sandboxes.snapshotSandbox({ id });
  origin = snapshot?.id ?? '';
  await agent.client.sandboxes.destroySandbox({ id });
}, 120_000 * PATIENCE);
afterAll(async () => {
  for (const { id } of await listed().catch(() => [])) await destroy(id).catch(() => {});
  await agent?.kill('SIGTERM');
  await files?.remove();
}, 120_000 * PATIENCE);

const listed = async (): Promise<Sandbox[]> => (await agent.client.sandboxes.listSandboxes({})).sandboxes;
const destroy = (id: string): Promise<unknown> => agent.client.sandboxes.destroySandbox({ id });
const one = async (id: string): Promise<Sandbox | undefined> =>
  (await listed()).find((sandbox) => sandbox.id === id);
const copyOrigin = (): Promise<Sandbox> => createSandbox(agent.client, { ...COPY, snapshotId: origin });

/** Whatever state they are in, and with every snapshot but the first. */
async function nothingLeft(): Promise<void> {
  for (const { id } of await listed()) await destroy(id);
  expect(await remains(files)).toEqual([]);
  for (const { id } of (await agent.client.sandboxes.listSnapshots({})).snapshots) {
    if (id !== origin) await agent.client.sandboxes.deleteSnapshot({ id });
  }
  expect((await readdir(join(files.dir, 'snapshots'))).sort()).toEqual([origin]);
}

/** The programs that the agent has started, and those that they have: who is who in the chain at this moment. */
function chain(): { readonly pid: number; readonly name: string }[] {
  const children = (pid: number): number[] =>
    read(`/proc/${pid}/task/${pid}/children`).split(' ').filter(Boolean).map(Number);
  const wrappers = children(agent.pid);
  return [...wrappers, ...wrappers.flatMap(children)].map((pid) => ({
    pid,
    name: read(`/proc/${pid}/comm`).trim(),
  }));
}

/** Empty for a process that is gone. */
function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Busily, as they follow each other within milliseconds. Undefined when `over` comes first. */
async function firstInChain(name: string, over: () => boolean): Promise<number | undefined> {
  while (!over()) {
    const found = chain().find((process) => process.name === name);
    if (found !== undefined) return found.pid;
    await nextTurn();
  }
  return undefined;
}

/** False where there was nobody to kill. */
async function kill(victim: Victim, vmmPid: number): Promise<boolean> {
  if (victim === 'agent') {
    await agent.kill('SIGKILL');
    return true;
  }
  if (!read(`/proc/${vmmPid}/cmdline`).includes('api.sock')) return false;
  const parent = /^PPid:\s+(\d+)/m.exec(read(`/proc/${vmmPid}/status`))?.[1];
  const pid = victim === 'VMM' ? vmmPid : Number(parent);
  if (!(pid > 1)) return false;
  try {
    return process.kill(pid, 'SIGKILL');
  } catch {
    // It was quicker.
    return false;
  }
}

describe('in a creation, kill -9', () => {
  it.each(CHAIN)('of %s leaves nothing', async (name) => {
    let over = false;
    const creating = codeOf(agent.client.sandboxes.createSandbox(REQUEST)).finally(() => {
      over = true;
    });
    const pid = await firstInChain(name, () => over);
    if (pid === undefined) throw new Error(`no ${name} was seen`);
    process.kill(pid, 'SIGKILL');
    const outcome = await creating;
    // Whoever is killed before there is a child takes the creation along; a wrapper may go by itself.
    if (name !== 'bwrap') expect(outcome).toBe('vmm_died');
    await nothingLeft();
  });

  it.each(CHAIN)(
    'of the agent, when %s runs, leaves nothing that the next one does not take away',
    async (name) => {
      let over = false;
      const creating = codeOf(agent.client.sandboxes.createSandbox(REQUEST)).finally(() => {
        over = true;
      });
      expect(await firstInChain(name, () => over)).toBeDefined();
      await agent.kill('SIGKILL');
      expect(await creating).not.toBe('no error');
      agent = await startAgentProcess(files);
      await nothingLeft();
    },
  );
});

interface Work {
  /** What comes before, and is not killed. */
  readonly prepare?: (id: string) => Promise<unknown>;
  readonly run: (id: string) => Promise<unknown>;
  /**
   * What the sandbox may be afterwards, besides failed; the last is what it was to become, and undefined is gone. Without
   * its VMM it is none of those in which it has one: one that wakes sleeps on where it had not begun to run.
   */
  readonly states: readonly (SandboxState | undefined)[];
}

const pause = (id: string): Promise<unknown> => agent.client.sandboxes.pauseSandbox({ id });
const resume = (id: string): Promise<unknown> => agent.client.sandboxes.resumeSandbox({ id });
const hibernate = (id: string): Promise<unknown> => agent.client.sandboxes.hibernateSandbox({ id });
const snapshot = (id: string): Promise<unknown> => agent.client.sandboxes.snapshotSandbox({ id });

const WORKS: readonly (Work & { readonly name: string })[] = [
  { name: 'a pause', run: pause, states: [RUNNING, PAUSED] },
  { name: 'a resume', prepare: pause, run: resume, states: [PAUSED, RUNNING] },
  { name: 'a hibernation', run: hibernate, states: [RUNNING, HIBERNATED] },
  { name: 'a wake', prepare: hibernate, run: resume, states: [HIBERNATED, RUNNING] },
  { name: 'a snapshot', run: snapshot, states: [RUNNING] },
  { name: 'a destruction', run: destroy, states: [RUNNING, undefined] },
];

describe.each(WORKS)('in the middle of $name, kill -9', ({ prepare, run, states }) => {
  let tookMs = 0;
  beforeAll(async () => {
    const { id } = await copyOrigin();
    await prepare?.(id);
    const startedAt = performance.now();
    await run(id);
    tookMs = performance.now() - startedAt;
    await nothingLeft();
  });

  it.each(VICTIMS.flatMap((victim) => SHARES.map((share) => ({ victim, share }))))(
    'of the $victim after $share of the time leaves nothing',
    async ({ victim, share }) => {
      const { id, vmmPid: firstPid } = await copyOrigin();
      await prepare?.(id);
      const running = codeOf(run(id));
      await sleep(share * tookMs);
      // One that wakes has a new one, or none yet.
      const hit = await kill(victim, states[0] === HIBERNATED ? ((await one(id))?.vmmPid ?? 0) : firstPid);
      const outcome = await running;
      if (victim === 'agent') agent = await startAgentProcess(files);
      const mayBe = hit && victim === 'VMM' ? states.filter((state) => !WITH_A_VMM.has(state)) : states;
      // That a VMM is gone is noticed a moment later.
      await until('it is what it may be', 5_000, async () => {
        const state = (await one(id))?.state;
        return state === FAILED || mayBe.includes(state);
      });
      // Who was told that it is done was told the truth.
      if ((victim === 'agent' || !hit) && outcome === 'no error')
        expect((await one(id))?.state).toBe(states.at(-1));
      await nothingLeft();
    },
  );
});
