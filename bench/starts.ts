/** How fast sandboxes start: from a warm template, from the pool and by a boot, and by hand from the same template. */

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Sandbox } from '@wrenn/protocol/agent';
import { type BenchAgent, SIZE } from './bench-agent.ts';
import { createRawRestores, firstExecMs, type RawRestores, readSnapshot } from './raw-restore.ts';
import type { Releases } from './releases.ts';
import type { Measurement } from './report.ts';
import { execByAgent } from './run-in-guest.ts';
import { timeMs } from './samples.ts';

export interface SnapshotBench {
  /** Makes no warm template by itself. */
  readonly agent: BenchAgent;
  /** Keeps `POOL_SIZE` ready. */
  readonly pooled: BenchAgent;
  readonly releases: Releases;
  readonly rounds: number;
  readonly signal: AbortSignal;
  readonly progress: (line: string) => void;
}

export const POOL_SIZE = 16;
const CONCURRENCIES = [1, 4, 16] as const;
/** More of the same would only take longer. */
const COLD_CONCURRENCIES = [1, 4] as const;
const COLD_ROUNDS = 2;
const ROUNDS_OF_MANY = 2;
const POOL_TIMEOUT_MS = 180_000;
const POLL_MS = 50;

export interface Creates {
  readonly measurements: Measurement[];
  /** By way and concurrency: how long each step took. */
  readonly phasesMs: ReadonlyMap<string, ReadonlyMap<string, readonly number[]>>;
}

interface Start {
  readonly createMs: number;
  readonly execMs: number;
  readonly sandbox?: Sandbox;
}

export async function startsOfAllKinds(bench: SnapshotBench): Promise<Creates> {
  const { agent, pooled, releases, rounds, signal, progress } = bench;
  progress('making the template warm');
  const { snapshot } = await agent.client.sandboxes.warmTemplate(SIZE, { signal, timeoutMs: 900_000 });
  const raw = await createRawRestores(
    agent.dir,
    await readSnapshot(agent.dir, snapshot?.id ?? ''),
    releases,
    signal,
  );
  const measurements: Measurement[] = [];
  const phasesMs = new Map<string, Map<string, number[]>>();
  const keepPhases = (what: string, { sandbox }: Start): void => {
    const steps = phasesMs.get(what) ?? new Map<string, number[]>();
    phasesMs.set(what, steps);
    for (const { name, duration } of sandbox?.phases ?? []) {
      const ms = Number(duration?.seconds ?? 0n) * 1000 + (duration?.nanos ?? 0) / 1e6;
      steps.set(name, [...(steps.get(name) ?? []), ms]);
    }
  };

  for (const at of CONCURRENCIES) {
    const [floor, warm, pool]: [Start[], Start[], Start[]] = [[], [], []];
    const counted = at === 1 ? rounds : Math.min(rounds, at === 4 ? rounds : ROUNDS_OF_MANY);
    // The first of each fills the page cache.
    for (let round = 0; round <= counted; round += 1) {
      signal.throwIfAborted();
      progress(`creates, ${at} at once: ${round === 0 ? 'warming up' : `round ${round} of ${counted}`}`);
      const starts = {
        floor: await rawStarts(raw, at, signal),
        warm: await agentStarts(agent, at, signal),
        pool: await (async () => {
          await untilPoolIsFull(pooled, signal);
          const started = await agentStarts(pooled, at, signal);
          // What fills it again would be in the way of all others.
          await untilPoolIsFull(pooled, signal);
          return started;
        })(),
      };
      if (round === 0) continue;
      floor.push(...starts.floor);
      warm.push(...starts.warm);
      pool.push(...starts.pool);
    }
    const floorOf = { what: 'the same snapshot, by hand', samplesMs: floor.map(({ createMs }) => createMs) };
    const whole = (starts: Start[]) => starts.map(({ createMs, execMs }) => createMs + execMs);
    const row = (what: string, samplesMs: number[], ratio?: number): Measurement => ({
      what: `${what}, ${at} at once`,
      samplesMs,
      floor: floorOf,
      ...(ratio === undefined ? {} : { target: { kind: 'time', ratio } as const }),
    });
    const creates = (starts: Start[]) => starts.map(({ createMs }) => createMs);
    measurements.push(
      row('create from a warm template', creates(warm), 1.25),
      row('  and the first exec', whole(warm), 3),
      row('create from the pool', creates(pool), 0.3),
      row('  and the first exec', whole(pool)),
      row('  by hand, and the first exec', whole(floor)),
    );
    for (const start of warm) keepPhases(`warm, ${at} at once`, start);
    for (const start of pool) keepPhases(`pool, ${at} at once`, start);
  }
  for (const at of COLD_CONCURRENCIES) {
    const cold: number[] = [];
    for (let round = 0; round < Math.min(rounds, COLD_ROUNDS); round += 1) {
      progress(`cold creates, ${at} at once: round ${round + 1}`);
      // A size that has no warm template.
      const starts = await agentStarts(agent, at, signal, SIZE.diskMib + 1);
      cold.push(...starts.map(({ createMs }) => createMs));
      for (const start of starts) keepPhases(`cold, ${at} at once`, start);
    }
    measurements.push({ what: `create by a boot, ${at} at once`, samplesMs: cold });
  }
  return { measurements, phasesMs };
}

async function rawStarts(raw: RawRestores, count: number, signal: AbortSignal): Promise<Start[]> {
  await raw.prepare(count);
  const restored = await inParallel(count, (index) => raw.restore(index));
  const starts = await inOrder(restored, async (one) => ({
    createMs: one.healthyMs,
    execMs: await firstExecMs(one, signal),
  }));
  for (const { end } of restored) await end();
  return starts;
}

async function agentStarts(
  agent: BenchAgent,
  count: number,
  signal: AbortSignal,
  diskMib?: number,
): Promise<Start[]> {
  const created = await inParallel(count, async () => {
    const beganAt = performance.now();
    const sandbox = await agent.create(signal, diskMib);
    return { sandbox, createMs: performance.now() - beganAt };
  });
  const starts = await inOrder(created, async (one) => ({
    ...one,
    execMs: await timeMs(() => execByAgent(agent, one.sandbox.id, ['/bin/true'], signal)),
  }));
  for (const { sandbox } of created) await agent.destroy(sandbox.id);
  return starts;
}

/** All of them begun at once; those that have succeeded are the caller's only if all have. */
function inParallel<T>(count: number, work: (index: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: count }, (_, index) => work(index)));
}

/** One after the other: what the first exec takes does not depend on how many there are then. */
async function inOrder<A, B>(items: readonly A[], work: (item: A) => Promise<B>): Promise<B[]> {
  const results: B[] = [];
  for (const item of items) results.push(await work(item));
  return results;
}

/** The pool tells nobody; its sandboxes are the agent's own, and stand still when they are ready. */
export async function untilPoolIsFull(
  agent: BenchAgent,
  signal: AbortSignal,
  size = POOL_SIZE,
): Promise<void> {
  const deadline = performance.now() + POOL_TIMEOUT_MS;
  const isReady = async (id: string): Promise<boolean> => {
    // One may go, or be half made, while it is looked at.
    const record = await agent.journalOf(id).catch(() => undefined);
    return record?.purpose === 'own' && record.state === 'paused';
  };
  for (;;) {
    const ids = await readdir(join(agent.dir, 'sandboxes'));
    const ready = await Promise.all(ids.map(isReady));
    if (ready.filter(Boolean).length === size) return;
    if (performance.now() > deadline) throw new Error('the pool does not get full');
    await sleep(POLL_MS, undefined, { signal });
  }
}
