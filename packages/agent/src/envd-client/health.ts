/**
 * Waits for a guest agent to come up, and notices at once when it does.
 *
 * Each probe is a connection of its own. A packet to a guest whose network is not up yet is lost, and the
 * kernel would repeat it after a second only; so new probes are begun while older ones still wait.
 */
import { request as httpRequest } from 'node:http';
import { WrennError } from '@wrenn/protocol';
import { abortReason } from '../signals/signals.ts';

export interface HealthOptions {
  readonly host: string;
  readonly port: number;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/**
 * Until anything of the guest answers. Each question waits in the TAP's queue for a guest whose network is not up
 * yet, which has to refuse every one of them in the middle of its boot: so a slow guest is asked ever less often. It
 * answers what waits as soon as it can, and that is when the network is up.
 */
const UNREACHED = { firstMs: 50, lastMs: 1_000, growth: 1.4 };
/** From the first refusal on: the network is up, and the guest agent about to start. */
const REACHED = { firstMs: 20, lastMs: 100, growth: 1.2 };
/** Long for one that has connected, short enough that those into the void do not pile up. */
const PROBE_TIMEOUT_MS = 2_000;
const CONNECT_TIMEOUT_MS = 1_000;

/** Resolves at the first 204. Throws `guest_unreachable` after the deadline, or the signal's reason. */
export function waitUntilHealthy({ host, port, timeoutMs, signal }: HealthOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    const probes = new Set<() => void>();
    let lastProblem: unknown;
    let pace = UNREACHED;
    let intervalMs = pace.firstMs;
    let next: NodeJS.Timeout | undefined;

    const finish = (error?: unknown): void => {
      clearTimeout(deadline);
      clearTimeout(next);
      signal.removeEventListener('abort', onAbort);
      for (const stop of probes) stop();
      if (error === undefined) resolve();
      else reject(error);
    };
    const onAbort = (): void => finish(abortReason(signal));
    const deadline = setTimeout(() => {
      finish(
        new WrennError('guest_unreachable', `The guest agent was not up within ${timeoutMs} ms.`, {
          hint: "The sandbox's console (`wrenn sandbox logs`) shows how far it came.",
          cause: lastProblem,
        }),
      );
    }, timeoutMs);

    const tick = (): void => {
      const stop = probe(host, port, (problem) => {
        probes.delete(stop);
        if (problem === undefined) return finish();
        lastProblem = problem;
        if (pace === UNREACHED && isAnswer(problem)) {
          pace = REACHED;
          intervalMs = pace.firstMs;
          clearTimeout(next);
          next = setTimeout(tick, intervalMs);
        }
      });
      probes.add(stop);
      next = setTimeout(tick, intervalMs);
      intervalMs = Math.min(intervalMs * pace.growth, pace.lastMs);
    };

    if (signal.aborted) onAbort();
    else {
      signal.addEventListener('abort', onAbort, { once: true });
      tick();
    }
  });
}

/** Whether it was the guest that said no, and not silence or the host's own network. */
function isAnswer(problem: unknown): boolean {
  return problem instanceof Error && (!('code' in problem) || problem.code === 'ECONNREFUSED');
}

/** Asks once; tells the outcome once unless stopped before. */
function probe(host: string, port: number, onOutcome: (problem: unknown) => void): () => void {
  let over = false;
  const request = httpRequest({ host, port, path: '/health', method: 'GET', agent: false });
  const end = (problem: unknown): void => {
    if (over) return;
    stop();
    onOutcome(problem);
  };
  const stop = (): void => {
    over = true;
    clearTimeout(timer);
    request.destroy();
  };
  let timer = setTimeout(() => end(noConnection()), CONNECT_TIMEOUT_MS);
  request.on('socket', (socket) => {
    socket.once('connect', () => {
      if (over) return;
      clearTimeout(timer);
      timer = setTimeout(() => end(new Error('no answer')), PROBE_TIMEOUT_MS);
    });
  });
  request.on('response', (response) => {
    const { statusCode } = response;
    end(statusCode === 204 ? undefined : new Error(`status ${statusCode}`));
  });
  // Also after the end: a destroyed request still tells of its end.
  request.on('error', end);
  request.end();
  return stop;
}

function noConnection(): Error {
  return Object.assign(new Error('no connection'), { code: 'ETIMEDOUT' });
}
