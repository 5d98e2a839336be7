/**
 * Many clients of the SDK at once on a few sandboxes for a while, over the API, the edge, the agent and envd. What is
 * looked for: errors, memory and files that grow, and an end that does not come.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { readdir, readFile, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { SandboxState } from '@wrenn/protocol/agent';
import { Sandbox } from 'e2b';
import {
  type AgentProcess,
  prepareAgent,
  remains,
  startAgentProcess,
} from '../../tests/e2e/agent-fixture.ts';
import { bundleProgram, startApiProcess } from '../api-process.ts';
import { createReleases } from '../releases.ts';
import { median } from '../samples.ts';
import { type ClientOrder, type ClientReport, KINDS, type Kind, type ToClients } from './messages.ts';

export interface SoakOptions {
  readonly clients: number;
  readonly sandboxes: number;
  readonly seconds: number;
  /** Between one thing and the next of its kind, on average, of each client. */
  readonly pauseS: number;
  /** In which they all come, one after the other. */
  readonly rampS: number;
  /** Makes the agent's names and addresses its own. */
  readonly number: number;
  readonly progress: (line: string) => void;
  readonly signal: AbortSignal;
}

export interface Sample {
  readonly atS: number;
  readonly apiMib: number;
  readonly agentMib: number;
  readonly apiFiles: number;
  readonly agentFiles: number;
}

/** Of one kind of thing, by all clients. */
export interface Work {
  readonly count: number;
  /** Of the client that did the fewest. */
  readonly least: number;
  readonly medianMs: number;
  readonly slowestMs: number;
}

export interface SoakResult {
  /** From when all were at work. */
  readonly done: Readonly<Record<Kind, Work>>;
  readonly errors: readonly string[];
  readonly samples: readonly Sample[];
  /** MiB and open files: the middle of the last quarter over that of what follows the first minute. */
  readonly growth: Readonly<Record<keyof Omit<Sample, 'atS'>, number>>;
  readonly apiStop: { readonly code: number | null; readonly tookMs: number };
  readonly agentStop: { readonly code: number | null; readonly tookMs: number };
  /** Sandboxes that had ended by themselves, with their reasons. */
  readonly lost: readonly string[];
  readonly left: readonly string[];
}

const SAMPLE_MS = 5000;
const PROGRESS_MS = 10_000;
const CLIENT_PROCESSES = 4;
const PATIENCE_MS = 240_000;
const READY_TIMEOUT_MS = 1_200_000;
const REPORT_TIMEOUT_MS = 10_000;
const WARM_UP_S = 60;

export async function runSoak(options: SoakOptions): Promise<SoakResult> {
  const { clients, sandboxes, seconds, pauseS, rampS, number, progress, signal } = options;
  const releases = createReleases();
  const files = await prepareAgent(number);
  releases.add('the directory', files.remove);
  try {
    const agent = await startAgentProcess(files, '', true);
    releases.add('the agent', () => agent.kill('SIGTERM'));
    releases.add('the sandboxes', () => destroyAll(agent));
    const api = await startApiProcess(files.dir, files.socketPath);
    releases.add('the API', api.stop);

    const connection = {
      apiKey: api.apiKey,
      apiUrl: api.url,
      sandboxUrl: api.url,
      requestTimeoutMs: PATIENCE_MS,
    };
    // One boots, the others are its copies: emulated boots would take longer than all else.
    const first = await Sandbox.create('minimal', { ...connection, timeoutMs: 3_600_000 });
    const ids = [first.sandboxId];
    const { snapshotId } = await first.createSnapshot(connection);
    progress(`sandbox 1 of ${sandboxes}`);
    while (ids.length < sandboxes) {
      signal.throwIfAborted();
      const { sandboxId } = await Sandbox.create(snapshotId, { ...connection, timeoutMs: 3_600_000 });
      ids.push(sandboxId);
      progress(`sandbox ${ids.length} of ${sandboxes}`);
    }

    const program = await bundleProgram('soak-client', { entry: 'bench/soak/client.ts' });
    releases.add('the client program', () => rm(program, { force: true }));
    const processes = Array.from({ length: Math.min(CLIENT_PROCESSES, clients) }, () =>
      // Whoever interrupts the soak ends it in its order.
      fork(program, { detached: true }),
    );
    releases.add('the clients', async () => processes.map((one) => one.disconnect()));
    const startedAt = performance.now();
    const waiting = new Map<number, Readonly<Record<string, number>>>();
    const ready = Promise.all(
      processes.map((one, index) => {
        const mine = Array.from({ length: clients }, (_, n) => n).filter(
          (n) => n % processes.length === index,
        );
        const order: ClientOrder = {
          url: api.url,
          apiKey: api.apiKey,
          patienceMs: PATIENCE_MS,
          pauseMs: pauseS * 1000,
          clients: mine.map((n) => ({
            name: `c${n}`,
            sandboxId: ids[n % ids.length] ?? '',
            beginAfterMs: (n * rampS * 1000) / clients,
          })),
        };
        one.send(order satisfies ToClients);
        one.on('message', (report: ClientReport) => {
          if (report.kind === 'progress') waiting.set(index, report.waiting);
        });
        return reportOf(one, 'ready', READY_TIMEOUT_MS, signal);
      }),
    );
    const samples: Sample[] = [];
    const sampling = setInterval(() => {
      void sample(api.pid, agent.pid, (performance.now() - startedAt) / 1000).then((one) =>
        samples.push(one),
      );
    }, SAMPLE_MS);
    releases.add('the sampling', async () => clearInterval(sampling));
    const telling = setInterval(() => {
      const atS = ((performance.now() - startedAt) / 1000).toFixed(0);
      progress(`${atS} s; clients wait for: ${JSON.stringify(sum(waiting.values()))}`);
    }, PROGRESS_MS);
    await ready.finally(() => clearInterval(telling));
    const readyS = (performance.now() - startedAt) / 1000;
    for (const one of processes) one.send('count' satisfies ToClients);
    progress(`all ${clients} clients at work after ${readyS.toFixed(0)} s`);
    for (let left = seconds; left > 0; left -= 5) {
      await sleep(Math.min(left, 5) * 1000, undefined, { signal });
      const last = samples.at(-1);
      if (last !== undefined) progress(`${left} s to go: ${JSON.stringify(last)}`);
    }
    clearInterval(sampling);

    // Their streams stay open: the end comes to a server that is in use.
    const reports = await Promise.all(
      processes.map((one) => {
        const report = reportOf(one, 'report', REPORT_TIMEOUT_MS, signal);
        one.send('stop' satisfies ToClients);
        return report;
      }),
    );
    const lost = await lostOf(agent);
    const apiStop = await api.stop();
    await destroyAll(agent);
    const agentStopAt = performance.now();
    const code = await agent.kill('SIGTERM');
    const agentStop = { code, tookMs: performance.now() - agentStopAt };
    const left = await remains(files);
    const growth = growthOf(samples, readyS);
    const errors = reports.flatMap((report) => report.errors);
    return { done: workOf(reports), errors, samples, growth, apiStop, agentStop, lost, left };
  } finally {
    await releases.all();
  }
}

type Report = Extract<ClientReport, { readonly kind: 'report' }>;

function workOf(reports: readonly Report[]): SoakResult['done'] {
  const all = reports.flatMap((report) => report.done);
  const of = (kind: Kind): Work => {
    const counts = all.map((one) => one[kind]);
    const tookMs = reports.flatMap((report) => report.tookMs[kind]);
    return {
      count: counts.reduce((total, count) => total + count, 0),
      least: Math.min(...counts),
      medianMs: tookMs.length === 0 ? 0 : median(tookMs),
      slowestMs: tookMs.reduce((most, ms) => Math.max(most, ms), 0),
    };
  };
  return Object.fromEntries(KINDS.map((kind) => [kind, of(kind)])) as Record<Kind, Work>;
}

function sum(some: Iterable<Readonly<Record<string, number>>>): Record<string, number> {
  const total: Record<string, number> = {};
  for (const one of some) {
    for (const [what, count] of Object.entries(one)) total[what] = (total[what] ?? 0) + count;
  }
  return total;
}

async function lostOf({ client }: AgentProcess): Promise<string[]> {
  const { sandboxes } = await client.sandboxes.listSandboxes({}, { timeoutMs: 60_000 });
  return sandboxes
    .filter(({ state }) => state !== SandboxState.RUNNING)
    .map(({ id, state, reason }) => `${id} is ${SandboxState[state]}: ${reason}`);
}

async function destroyAll({ client }: AgentProcess): Promise<void> {
  const { sandboxes } = await client.sandboxes
    .listSandboxes({}, { timeoutMs: 60_000 })
    .catch(() => ({ sandboxes: [] }));
  for (const { id } of sandboxes) await client.sandboxes.destroySandbox({ id }, { timeoutMs: 60_000 });
}

function reportOf<K extends ClientReport['kind']>(
  child: ChildProcess,
  kind: K,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Extract<ClientReport, { readonly kind: K }>> {
  return new Promise((resolve, reject) => {
    const settle = (how: () => void): void => {
      clearTimeout(timer);
      child.off('message', hear).off('exit', end);
      signal.removeEventListener('abort', abort);
      how();
    };
    const hear = (message: unknown): void => {
      const report = message as ClientReport;
      if (isOf(report, kind)) settle(() => resolve(report));
    };
    const end = (code: number | null): void =>
      settle(() => reject(new Error(`A client process ended with ${code}.`)));
    const abort = (): void => settle(() => reject(signal.reason));
    const timer = setTimeout(
      () => settle(() => reject(new Error(`A client process said nothing (${kind}).`))),
      timeoutMs,
    );
    child.on('message', hear).once('exit', end);
    signal.addEventListener('abort', abort, { once: true });
    if (signal.aborted) abort();
  });
}

function isOf<K extends ClientReport['kind']>(
  report: ClientReport,
  kind: K,
): report is Extract<ClientReport, { readonly kind: K }> {
  return report.kind === kind;
}

async function sample(apiPid: number, agentPid: number, atS: number): Promise<Sample> {
  const [apiMib, agentMib, apiFiles, agentFiles] = await Promise.all([
    residentMib(apiPid),
    residentMib(agentPid),
    openFiles(apiPid),
    openFiles(agentPid),
  ]);
  return { atS: Math.round(atS), apiMib, agentMib, apiFiles, agentFiles };
}

async function residentMib(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return Math.round(Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) / 1024);
}

async function openFiles(pid: number): Promise<number> {
  return (await readdir(`/proc/${pid}/fd`).catch(() => [])).length;
}

/** From a minute after all were at work; of shorter runs, from the half on. */
function growthOf(samples: readonly Sample[], readyS: number): SoakResult['growth'] {
  const lastS = samples.at(-1)?.atS ?? 0;
  const fromS = Math.min(readyS + WARM_UP_S, (readyS + lastS) / 2);
  const measured = samples.filter(({ atS }) => atS >= fromS);
  const quarter = Math.max(1, Math.floor(measured.length / 4));
  const of = (key: keyof Sample): number => {
    const middle = (some: readonly Sample[]) => median(some.map((one) => one[key]));
    return middle(measured.slice(-quarter)) / middle(measured.slice(0, quarter));
  };
  return {
    apiMib: of('apiMib'),
    agentMib: of('agentMib'),
    apiFiles: of('apiFiles'),
    agentFiles: of('agentFiles'),
  };
}
