/**
 * Random lives: whatever is asked, in whatever order and at the same time, whatever fails and whatever dies.
 * Afterwards nothing is held, and on the way no contract was broken (see testing/).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createSandboxManager } from './manager.ts';
import type { SandboxState } from './states.ts';
import { createFakeWorld, type FakeWorld } from './testing/fake-world.ts';

type Action =
  | { readonly kind: 'create'; readonly timeoutMs: number | undefined }
  | {
      readonly kind: 'pause' | 'resume' | 'hibernate' | 'destroy' | 'exec' | 'leaveExec' | 'die';
      readonly which: number;
    }
  | { readonly kind: 'fork' | 'snapshot' | 'createFrom' | 'deleteSnapshot'; readonly which: number }
  | { readonly kind: 'setTimeout'; readonly which: number; readonly timeoutMs: number }
  | { readonly kind: 'wait'; readonly ms: number }
  /** Until all that was asked for has settled. */
  | { readonly kind: 'settle' };

const NEVER_FAILS = 25;

const which = fc.nat(5);
const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('create' as const),
      // Mostly none: what is over at once meets nothing else.
      timeoutMs: fc.oneof(
        { weight: 8, arbitrary: fc.constant(undefined) },
        { weight: 1, arbitrary: fc.integer({ min: 1, max: 60 }) },
      ),
    }),
  },
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constantFrom(
        'pause' as const,
        'resume' as const,
        'hibernate' as const,
        'hibernate' as const,
        'fork' as const,
        'snapshot' as const,
        'createFrom' as const,
        'deleteSnapshot' as const,
        'destroy' as const,
        'exec' as const,
        'leaveExec' as const,
        'die' as const,
      ),
      which,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('setTimeout' as const),
      which,
      timeoutMs: fc.integer({ min: 1, max: 20 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('wait' as const), ms: fc.nat(6) }) },
  { weight: 5, arbitrary: fc.constant({ kind: 'settle' } as const) },
);

/**
 * Which operations fail, how long each takes, and which are slow to heed an abort: used round and round. A create has some
 * twenty: where many of them fail there are no sandboxes for anything else to be done with.
 */
const disturbance = fc.array(
  fc.record({ ms: fc.nat(3), fails: fc.noBias(fc.nat(NEVER_FAILS)), deaf: fc.boolean() }),
  { minLength: 1, maxLength: 30 },
);

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
const FOLLOWS: Readonly<Record<string, readonly SandboxState[]>> = {
  creating: ['creating', 'running', 'destroying'],
  running: ['running', 'paused', 'hibernating', 'destroying'],
  paused: ['paused', 'running', 'hibernating', 'destroying'],
  hibernating: ['hibernating', 'running', 'paused', 'hibernated', 'destroying'],
  hibernated: ['hibernated', 'resuming', 'destroying'],
  resuming: ['resuming', 'running', 'hibernated', 'destroying'],
  destroying: ['destroying', 'failed'],
  failed: ['failed'],
};

function disturb(world: FakeWorld, plan: readonly { ms: number; fails: number; deaf: boolean }[]): void {
  let turn = 0;
  world.disturb = async (operation, signal) => {
    const { ms, fails, deaf } = plan[turn++ % plan.length] ?? { ms: 0, fails: NEVER_FAILS, deaf: false };
    if (ms > 0) await sleep(ms, undefined, signal === undefined || deaf ? {} : { signal });
    if (fails === 0 && !MUST_WORK.has(operation))
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
  const lives = fc.array(action, { maxLength: 60, size: 'max' });
  await fc.assert(
    fc.asyncProperty(lives, disturbance, async (actions, plan) => {
      // Those that are made warm in the background are there longer than such a life.
      const world = createFakeWorld({ config: { warm: { mode: 'off' } } });
      const manager = createSandboxManager(world.deps);
      await manager.start(new AbortController().signal);
      disturb(world, plan);
      const unfair: string[] = [];
      const seen = new Map<string, SandboxState>();
      const look = (): void => {
        for (const { id, state } of manager.list()) {
          const before = seen.get(id);
          // Looked at only now and then, so a state may have been passed through: two steps at once are legal.
          const reachable = (from: SandboxState): SandboxState[] => [...(FOLLOWS[from] ?? [])];
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
      const pick = (n: number): string => {
        const all = manager.list();
        return all[n % Math.max(1, all.length)]?.id ?? 'a'.repeat(20);
      };
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
            const id = pick(one.which);
            const { kind } = one;
            under.push(fairly(() => manager[kind](id), kind));
            break;
          }
          case 'fork': {
            const id = pick(one.which);
            under.push(fairly(() => manager.fork(id, { count: 2 }), one.kind));
            break;
          }
          case 'snapshot': {
            const id = pick(one.which);
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
            const outputs = manager.exec(pick(one.which), exec, never);
            under.push(
              fairly(async () => {
                for await (const _output of outputs);
              }),
            );
            break;
          }
          case 'leaveExec': {
            const caller = new AbortController();
            const outputs = manager.exec(pick(one.which), exec, caller.signal);
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
      world.disturb = async () => {};
      for (const { id } of manager.list()) await fairly(() => manager.destroy(id));
      for (const { id } of manager.listSnapshots()) await fairly(() => manager.deleteSnapshot(id));
      await sleep(1);
      expect({
        unheard: unheard.splice(0),
        unfair,
        violations: world.violations,
        listed: manager.list(),
        live: manager.liveCount(),
        vms: world.aliveVms().length,
        slots: [...world.slots],
        layers: [...world.layers],
        snapshots: [...world.snapshots, ...world.manifests.keys()],
        journals: [...world.journals.keys()],
      }).toEqual({
        unheard: [],
        unfair: [],
        violations: [],
        listed: [],
        live: 0,
        vms: 0,
        slots: [],
        layers: [],
        snapshots: [],
        journals: [],
      });
    }),
    { numRuns: 120, interruptAfterTimeLimit: 90_000, markInterruptAsFailure: false },
  );
  // Else it would be of no worth. Some twenty and more of each; of a resume some five, so that a run may well be without one.
  const kinds = ['create', 'destroy', 'fork', 'hibernate', 'pause', 'snapshot'];
  expect([...succeeded.keys()].sort()).toEqual(expect.arrayContaining(kinds));
}, 180_000);
