/**
 * What sandboxes use, asked of their guest agents and kept for a day, bounded: every sample of the last hour, then
 * one a minute. Guests are hostile: an answer is small, in time and of the right form, or there is none.
 */
import { setMaxListeners } from 'node:events';
import { ENVD_PORT } from '@wrenn/protocol';
import { z } from 'zod';
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import { askGuest } from './ask-guest.ts';
import type { Watcher } from './watcher.ts';

export interface MetricPoint {
  readonly at: Date;
  readonly cpuCount: number;
  readonly cpuUsedPct: number;
  readonly memUsed: number;
  readonly memTotal: number;
  readonly memCache: number;
  readonly diskUsed: number;
  readonly diskTotal: number;
}

export interface MetricsHistory {
  /** Oldest first. Takes the first sample where there is none yet. */
  read(id: string, from?: Date, to?: Date): Promise<readonly MetricPoint[]>;
  start(): void;
  stop(): Promise<void>;
}

export interface MetricsOptions {
  readonly agent: Agent;
  readonly watcher: Watcher;
  readonly intervalMs: number;
  /** Where guest agents listen; another one in tests. */
  readonly envdPort?: number | undefined;
}

const ANSWER_MAX_BYTES = 16 * 1024;
const ANSWER_TIMEOUT_MS = 3000;
const MAX_AT_ONCE = 8;
const FINE_MS = 60 * 60_000;
const COARSE_STEP_MS = 60_000;
const MAX_COARSE = 24 * 60;

const size = z.number().min(0).max(Number.MAX_SAFE_INTEGER).transform(Math.round);
const answerSchema = z.object({
  cpu_count: z.int().min(0).max(4096),
  cpu_used_pct: z
    .number()
    .min(0)
    .max(100 * 4096),
  mem_used: size,
  mem_total: size,
  mem_cache: size.default(0),
  disk_used: size,
  disk_total: size,
});

interface Series {
  readonly coarse: MetricPoint[];
  readonly fine: MetricPoint[];
  access: { readonly address: string; readonly token: string } | undefined;
  sampling: Promise<void> | undefined;
}

export function createMetricsHistory(options: MetricsOptions): MetricsHistory {
  const { agent, watcher, intervalMs, envdPort = ENVD_PORT } = options;
  const maxFine = Math.max(1, Math.ceil(FINE_MS / intervalMs));
  const all = new Map<string, Series>();
  const stopped = new AbortController();
  // Every question that is open listens to it.
  setMaxListeners(0, stopped.signal);
  let timer: NodeJS.Timeout | undefined;
  let round: Promise<void> = Promise.resolve();
  watcher.onGone((id, ended) => {
    if (ended) all.delete(id);
  });

  const seriesOf = (id: string): Series => {
    const series = all.get(id) ?? { coarse: [], fine: [], access: undefined, sampling: undefined };
    all.set(id, series);
    return series;
  };

  const take = async (sandbox: AgentSandbox, series: Series): Promise<void> => {
    if (series.access?.address !== sandbox.address) {
      const { address, envdAccessToken } = await agent.access(sandbox.id, stopped.signal);
      series.access = { address, token: envdAccessToken };
    }
    const { address, token } = series.access;
    if (address === '') return;
    const point = await ask(address, envdPort, token, stopped.signal);
    series.fine.push(point);
    while (series.fine.length > maxFine) thin(series);
  };

  /** Never rejects: a guest that does not answer has no metrics, and that is all. */
  const sample = (sandbox: AgentSandbox): Promise<void> => {
    const series = seriesOf(sandbox.id);
    series.sampling ??= take(sandbox, series)
      .catch(() => {
        series.access = undefined;
      })
      .finally(() => {
        series.sampling = undefined;
      });
    return series.sampling;
  };

  const sampleAll = async (): Promise<void> => {
    for (const id of all.keys()) if (!watcher.view.has(id)) all.delete(id);
    const due = [...watcher.view.values()].filter(({ state }) => state === 'running');
    const worker = async (): Promise<void> => {
      for (let next = due.pop(); next !== undefined && !stopped.signal.aborted; next = due.pop()) {
        await sample(next);
      }
    };
    await Promise.all(Array.from({ length: Math.min(MAX_AT_ONCE, due.length) }, worker));
  };

  const schedule = (): void => {
    if (stopped.signal.aborted) return;
    timer = setTimeout(() => {
      round = sampleAll().finally(schedule);
    }, intervalMs);
  };

  return {
    read: async (id, from, to) => {
      const sandbox = watcher.view.get(id);
      const known = all.get(id);
      if (known === undefined || known.fine.length === 0) {
        if (sandbox?.state === 'running') await sample(sandbox);
      }
      const series = all.get(id);
      if (series === undefined) return [];
      return [...series.coarse, ...series.fine].filter(
        ({ at }) => (from === undefined || at >= from) && (to === undefined || at <= to),
      );
    },
    start: schedule,
    stop: async () => {
      stopped.abort();
      clearTimeout(timer);
      await round;
    },
  };
}

/** Of what leaves the last hour, the first of each minute stays. */
function thin(series: Series): void {
  const oldest = series.fine.shift();
  const last = series.coarse.at(-1);
  if (oldest === undefined) return;
  if (last !== undefined && oldest.at.getTime() - last.at.getTime() < COARSE_STEP_MS) return;
  series.coarse.push(oldest);
  if (series.coarse.length > MAX_COARSE) series.coarse.shift();
}

async function ask(address: string, port: number, token: string, signal: AbortSignal): Promise<MetricPoint> {
  const { status, text } = await askGuest({
    address,
    port,
    token,
    method: 'GET',
    path: '/metrics',
    timeoutMs: ANSWER_TIMEOUT_MS,
    maxBytes: ANSWER_MAX_BYTES,
    signal,
  });
  if (status !== 200) throw new Error(`The guest answered ${status}.`);
  const answer = answerSchema.parse(JSON.parse(text));
  return {
    at: new Date(),
    cpuCount: answer.cpu_count,
    cpuUsedPct: answer.cpu_used_pct,
    memUsed: answer.mem_used,
    memTotal: answer.mem_total,
    memCache: answer.mem_cache,
    diskUsed: answer.disk_used,
    diskTotal: answer.disk_total,
  };
}
