/**
 * Connects to a socket that QEMU is about to open: until it accepts, the process dies, the caller gives up
 * or the deadline passes. The connection that is accepted is the one returned, since QEMU serves one at a time.
 */
import { lstat } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';

const RETRY_MS = 3;

export interface ConnectOptions {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** Tells whether the process that should serve the socket has ended. */
  readonly isGone: () => boolean;
}

/** Undefined when the process is gone. Throws `deadline_exceeded` or `cancelled`. */
export async function connectTo(path: string, options: ConnectOptions): Promise<Socket | undefined> {
  const { signal, timeoutMs } = options;
  const deadline = performance.now() + timeoutMs;
  while (!options.isGone()) {
    if (signal.aborted) {
      throw new WrennError('cancelled', 'The connection to QEMU was cancelled.', { cause: signal.reason });
    }
    if (performance.now() > deadline) {
      throw new WrennError('deadline_exceeded', `QEMU did not open its socket within ${timeoutMs} ms.`, {
        hint: "A loaded host makes it slow; the microVM's log may say what it was doing.",
      });
    }
    const socket = await tryOnce(path);
    if (socket !== undefined) return socket;
    await sleep(RETRY_MS);
  }
  return undefined;
}

/** Undefined while nobody listens there. A link is not followed: it could lead to any socket of the host. */
async function tryOnce(path: string): Promise<Socket | undefined> {
  const isSocket = await lstat(path).then(
    (stats) => stats.isSocket(),
    () => false,
  );
  if (!isSocket) return undefined;
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      resolve(socket);
    });
    socket.once('error', () => resolve(undefined));
  });
}
