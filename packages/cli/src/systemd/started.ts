/**
 * Whether a service that systemd has just started really serves. `systemctl restart` says so of a simple service once its
 * process is there, whatever becomes of it, and starts one that ends again and again.
 */
import { connect, createServer, isIPv6 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { unitMainPid } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

export interface Waiting {
  readonly deadlineMs: number;
  readonly pollMs: number;
  /** For how long it must have been the same process once it answers. */
  readonly settleMs: number;
  /** More than this is given up: it would go on like this. */
  readonly maxEnds: number;
  readonly mainPid: (unit: string) => Promise<number>;
  readonly signal?: AbortSignal;
}

const WAITING: Waiting = {
  deadlineMs: 60_000,
  pollMs: 200,
  settleMs: 1000,
  maxEnds: 2,
  mainPid: unitMainPid,
};
const CONNECT_TIMEOUT_MS = 2_000;

/** Resolves once `answers` does, and the process behind it stays. Throws `agent_not_running`, or the signal's reason. */
export async function untilServing(
  unit: string,
  answers: () => Promise<boolean>,
  waiting: Partial<Waiting> = {},
): Promise<void> {
  const { deadlineMs, pollMs, settleMs, maxEnds, mainPid, signal } = { ...WAITING, ...waiting };
  const startedAt = performance.now();
  let pid = 0;
  let ends = 0;
  let answersSince: number | undefined;
  while (performance.now() - startedAt < deadlineMs) {
    signal?.throwIfAborted();
    const now = await mainPid(unit);
    if (now !== pid) {
      if (pid !== 0) ends += 1;
      if (ends > maxEnds) throw notServing(unit, `has ended ${ends} times`);
      pid = now;
      answersSince = undefined;
    }
    if (pid !== 0) {
      if (answersSince === undefined && (await answers())) answersSince = performance.now();
      if (answersSince !== undefined && performance.now() - answersSince >= settleMs) return;
    }
    await sleep(pollMs);
  }
  throw notServing(unit, `did not answer within ${deadlineMs / 1000} s`);
}

function notServing(unit: string, what: string): WrennError {
  return new WrennError('agent_not_running', `${unit} ${what}. systemd goes on starting it.`, {
    hint: `Its log: journalctl -u ${unit} -n 50. \`systemctl stop ${unit}\` ends it.`,
  });
}

interface Address {
  readonly host: string;
  readonly port: number;
}

/** Fails as listening there does. */
export async function tryToListen({ host, port }: Address): Promise<void> {
  const server = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host, port }, resolve);
    });
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
}

export async function isListenedAt({ host, port }: Address): Promise<boolean> {
  const everywhere = isIPv6(host) ? '::' : '0.0.0.0';
  const loopback = isIPv6(host) ? '::1' : '127.0.0.1';
  return await new Promise((resolve) => {
    const socket = connect({ host: host === everywhere ? loopback : host, port });
    const end = (isThere: boolean) => {
      socket.destroy();
      resolve(isThere);
    };
    socket.once('connect', () => end(true));
    socket.once('error', () => end(false));
    socket.setTimeout(CONNECT_TIMEOUT_MS, () => end(false));
  });
}
