/**
 * Waiting for a VMM's socket: until a connection is accepted (a file that exists may not listen
 * yet), the process dies, the caller gives up or the deadline passes, whichever comes first.
 */
import { connect } from 'node:net';
import { WrennError } from '@wrenn/protocol';

/** VMMs take ten to fifty milliseconds; a try costs some fifty microseconds. */
const RETRY_MS = 3;

export interface SocketWaitOptions {
  /** The VMM's name, for messages. */
  readonly vmm: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** Resolves when the process that should serve the socket is gone. */
  readonly gone: Promise<unknown>;
}

/** Resolves with true when a connection was accepted, with false when the process is gone. */
export function waitForSocket(path: string, options: SocketWaitOptions): Promise<boolean> {
  return new Promise<boolean>((resolve, reject) => {
    let settled = false;
    let trying = false;

    const finish = (outcome: boolean | WrennError): void => {
      if (settled) return;
      settled = true;
      clearTimeout(deadline);
      clearInterval(retry);
      options.signal.removeEventListener('abort', onAbort);
      if (outcome instanceof WrennError) reject(outcome);
      else resolve(outcome);
    };
    const attempt = (): void => {
      if (settled || trying) return;
      trying = true;
      const socket = connect(path);
      socket.once('connect', () => {
        socket.destroy();
        finish(true);
      });
      // Not there or not listening yet: the interval tries again, until the deadline.
      socket.once('error', () => {
        trying = false;
      });
    };
    const onAbort = (): void =>
      finish(
        new WrennError('cancelled', `The start of ${options.vmm} was cancelled.`, {
          cause: options.signal.reason,
        }),
      );

    const deadline = setTimeout(
      () =>
        finish(
          new WrennError(
            'deadline_exceeded',
            `${options.vmm} did not open its socket within ${options.timeoutMs} ms.`,
            { hint: "A loaded host makes it slow; the microVM's log may say what it was doing." },
          ),
        ),
      options.timeoutMs,
    );
    const retry = setInterval(attempt, RETRY_MS);
    options.signal.addEventListener('abort', onAbort, { once: true });
    options.gone.then(
      () => finish(false),
      () => finish(false),
    );
    if (options.signal.aborted) onAbort();
    else attempt();
  });
}
