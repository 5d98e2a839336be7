/**
 * Random lives: whatever is asked, in whatever order and at the same time, whatever fails and whatever dies.
 * Afterwards nothing is held, and on the way no contract was broken (see testing/).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { createSandboxManager, type SandboxManager } from './manager.ts';
import { FOLLOWS, type SandboxState } from './states.ts';
import { createFakeWorld, type FakeWorld } from './testing/fake-world.ts';
import {
  type Action,
  type Disturbance,
  KNOWN_LIVES,
  randomActions,
  randomDisturbance,
  WORTH_WHILE,
} from './testing/lives.ts';

/** What a clean-up cannot survive without leaving something; the rest may fail at any time. */
const MUST_WORK = new Set([
  'kill',
  'removeCgroup',
  'release',
  'remove',
  'removeSnapshot',
  'removeHibernations',
]);
/** What callers may be told. Anything else, `internal` above all, is a mistake. */
const FAIR = new Set([
  'sandbox_wrong_state',
  'sandbox_not_found',
  'sandbox_failed',
  'snapshot_not_found',
  'snapshot_in_use',
  'command_failed',
  'vmm_died',
  'cancelled',
]);
/** Each of them is to be seen; one that has failed goes without a word. */
const TRANSITIONS = Object.entries(FOLLOWS)
  .filter(([from]) => from !== 'failed')
  .flatMap(([from, all]) => all.map((to) => `${from} → ${to}`));

/** By the log, which has every state that a sandbox came into. */
function transitionsOf({ logged }: FakeWorld): string[] {
  const last = new Map<unknown, unknown>();
  return logged
    .filter(({ message }) => message === 'state')
    .map(({ fields }) => {
      const { sandboxId, state } = fields as { sandboxId: unknown; state: unknown };
      const before = last.get(sandboxId) ?? 'creating';
      last.set(sandboxId, state);
      return `${before} → ${state}`;
    });
}

const NOTHING = { listed: [], live: 0, vms: 0, slots: [], layers: [], snapshots: [], journals: [] };

function leftOf(world: FakeWorld, manager: SandboxManager): Record<keyof typeof NOTHING, unknown> {
  return {
    listed: manager.list(),
    live: manager.liveCount(),
    vms: world.aliveVms().length,
    slots: [...world.slots],
    layers: [...world.layers],
    snapshots: [...world.snapshots, ...world.manifests.keys()],
    journals: [...world.journals.keys()],
  };
}

function disturb(world: FakeWorld, { plan, faulty }: Disturbance): void {
  let [turn, faultyTurn] = [0, 0];
  world.disturb = async (operation, signal) => {
    const { ms, fails, deaf } = plan[turn++ % plan.length] ?? { ms: 0, fails: false, deaf: false };
    if (ms > 0) await sleep(ms, undefined, signal === undefined || deaf ? {} : { signal });
    const isFaulty = operation === faulty && faultyTurn++ % 2 === 0;
    if ((fails || isFaulty) && !MUST_WORK.has(operation))
      throw new WrennError('command_failed', `${operation} failed`);
  };
}

/** What would end the agent, even where somebody hears of it later. */
const unheard: unknown[] = [];
const onUnheard = (reason: unknown): void => void unheard.push(reason);
beforeAll(() => void process.on('unhandledRejection', onUnheard));
afterAll(() => void process.off('unhandledRejection', onUnheard));

it('leaves nothing and breaks no contract', async () => {
  const succeeded = new Map<string, number>();
  const seenTransitions = new Map<string, number>();
  await fc.assert(
    fc.asyncProperty(randomActions, randomDisturbance, async (actions, disturbance) => {
      // Those that are made warm in the background are there longer than such a life.
      const world = createFakeWorld({ config: { warm: { mode: 'off' } } });
      const manager = createSandboxManager(world.deps);
      await manager.start(new AbortController().signal);
      disturb(world, disturbance);
      const unfair: string[] = [];
      const seen = new Map<string, SandboxState>();
      const look = (): void => {
        for (const { id, state } of manager.list()) {
          const before = seen.get(id);
          // Looked at only now and then, so a state may have been passed through: two steps at once are legal.
          const reachable = (from: SandboxState): SandboxState[] => [from, ...FOLLOWS[from]];
          if (before !== undefined && !reachable(before).flatMap(reachable).includes(state)) {
            unfair.push(`${before} → ${state}`);
          }
          seen.set(id, state);
        }
      };
      const fairly = async (work: () => Promise<unknown>, kind?: Action['kind']): Promise<void> => {
        try {
          await work();
          if (kind !== undefined) succeeded.set(kind, (succeeded.get(kind) ?? 0) + 1);
        } catch (error) {
          const code = error instanceof WrennError ? error.code : String(error);
          if (!FAIR.has(code)) unfair.push(code);
        }
      };
      const pick = (n: number, states: readonly SandboxState[] = []): string => {
        const all = manager.list();
        const suited = all.filter(({ state }) => states.includes(state));
        const some = suited.length > 0 ? suited : all;
        return some[n % Math.max(1, some.length)]?.id ?? 'a'.repeat(20);
      };
      const pickFor = ({ kind, which, ofAll }: Extract<Action, { ofAll: boolean }>): string =>
        pick(which, ofAll ? [] : WORTH_WHILE[kind]);
      const request = { memoryMib: 128, diskMib: 64 };
      const exec = { command: ['echo', 'x'], envs: {}, stdin: false };
      const never = new AbortController().signal;

      const under: Promise<void>[] = [];
      for (const one of actions) {
        look();
        switch (one.kind) {
          case 'create':
            under.push(fairly(() => manager.create({ ...request, timeoutMs: one.timeoutMs }), one.kind));
            break;
          case 'pause':
          case 'resume':
          case 'hibernate':
          case 'destroy': {
            const id = pickFor(one);
            const { kind } = one;
            under.push(fairly(() => manager[kind](id), kind));
            break;
          }
          case 'fork': {
            const id = pickFor(one);
            under.push(fairly(() => manager.fork(id, { count: 2 }), one.kind));
            break;
          }
          case 'snapshot': {
            const id = pickFor(one);
            under.push(fairly(() => manager.snapshot(id), one.kind));
            break;
          }
          case 'createFrom':
          case 'deleteSnapshot': {
            const all = manager.listSnapshots();
            const snapshotId = all[one.which % Math.max(1, all.length)]?.id ?? 'a'.repeat(20);
            const work =
              one.kind === 'createFrom'
                ? () => manager.create({ snapshotId })
                : () => manager.deleteSnapshot(snapshotId);
            under.push(fairly(work, one.kind));
            break;
          }
          case 'setTimeout': {
            const id = pick(one.which);
            under.push(fairly(() => manager.setTimeout(id, one.timeoutMs)));
            break;
          }
          case 'exec': {
            const outputs = manager.exec(pickFor(one), exec, never);
            under.push(
              fairly(async () => {
                for await (const _output of outputs);
              }),
            );
            break;
          }
          case 'leaveExec': {
            const caller = new AbortController();
            const outputs = manager.exec(pickFor(one), exec, caller.signal);
            under.push(fairly(() => outputs.next()));
            setTimeout(() => caller.abort(), 1);
            break;
          }
          case 'die':
            world.aliveVms()[one.which]?.die('on purpose');
            break;
          case 'wait':
            await sleep(one.ms);
            break;
          case 'settle':
            await Promise.all(under);
            break;
        }
      }
      await Promise.all(under);
      look();
      for (const each of transitionsOf(world))
        seenTransitions.set(each, (seenTransitions.get(each) ?? 0) + 1);
      world.disturb = async () => {};
      for (const { id } of manager.list()) await fairly(() => manager.destroy(id));
      for (const { id } of manager.listSnapshots()) await fairly(() => manager.deleteSnapshot(id));
      await sleep(1);
      expect({ unheard: unheard.splice(0), unfair, violations: world.violations }).toEqual({
        unheard: [],
        unfair: [],
        violations: [],
      });
      // Nobody has asked for the end of those whose time was over or that died, and so nobody waits for it.
      await vi.waitFor(() => expect(leftOf(world, manager)).toEqual(NOTHING), 15_000);
    }),
    {
      numRuns: 120,
      examples: KNOWN_LIVES.map(([actions, disturbance]): [readonly Action[], Disturbance] => [
        actions,
        disturbance,
      ]),
      interruptAfterTimeLimit: 90_000,
      markInterruptAsFailure: false,
    },
  );
  // Else it would be of no worth.
  expect([...seenTransitions.keys()].sort()).toEqual([...TRANSITIONS].sort());
  expect([...succeeded.keys()].sort()).toEqual([
    'create',
    'createFrom',
    'deleteSnapshot',
    'destroy',
    'fork',
    'hibernate',
    'pause',
    'resume',
    'snapshot',
  ]);
}, 180_000);
