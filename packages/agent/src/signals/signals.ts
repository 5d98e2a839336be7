/**
 * Abort signals joined and given deadlines, for every part of the agent. A leaf: it knows nothing of them.
 *
 * Not AbortSignal.any and AbortSignal.timeout: in Node 20 a joined signal does not keep its timeout from being
 * collected as garbage, so it may never fire, and every join leaves a reference in a signal that lives long.
 */
import { WrennError } from '@wrenn/protocol';

export interface JoinedSignal {
  readonly signal: AbortSignal;
  /** Lets go of the signals that were joined. Idempotent. */
  release(): void;
}

/** Aborts with the first of them, and with its reason. */
export function joinSignals(...parents: readonly AbortSignal[]): JoinedSignal {
  const joined = new AbortController();
  const listeners = parents.map((parent) => {
    const onAbort = (): void => joined.abort(parent.reason);
    if (parent.aborted) onAbort();
    else parent.addEventListener('abort', onAbort, { once: true });
    return () => parent.removeEventListener('abort', onAbort);
  });
  return {
    signal: joined.signal,
    release: () => {
      for (const remove of listeners) remove();
    },
  };
}

/**
 * Gives the work a signal that aborts with the parent and after `timeoutMs`, then with `deadline_exceeded`.
 * Waits for the work to heed it.
 */
export async function withDeadline<T>(
  what: string,
  timeoutMs: number,
  parent: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const deadline = new AbortController();
  const timer = setTimeout(() => deadline.abort(tooLong(what, timeoutMs)), timeoutMs);
  const joined = parent === undefined ? undefined : joinSignals(parent, deadline.signal);
  const signal = joined?.signal ?? deadline.signal;
  try {
    return await work(signal);
  } catch (error) {
    // Whatever a part of the work made of it, the deadline is what happened.
    if (signal.aborted && signal.reason === deadline.signal.reason) throw deadline.signal.reason;
    throw error;
  } finally {
    clearTimeout(timer);
    joined?.release();
  }
}

/** The work's outcome, or `deadline_exceeded`; what the work does afterwards is no longer waited for. */
export async function withinMs<T>(timeoutMs: number, what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(tooLong(what, timeoutMs)), timeoutMs);
  });
  try {
    return await Promise.race([work, deadline]);
  } finally {
    clearTimeout(timer);
  }
}

/** Why a signal was aborted, as one of our errors. */
export function abortReason(signal: AbortSignal): WrennError {
  const { reason } = signal;
  if (reason instanceof WrennError) return reason;
  return new WrennError('cancelled', 'The operation was cancelled.', { cause: reason });
}

export function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw abortReason(signal);
}

function tooLong(what: string, timeoutMs: number): WrennError {
  return new WrennError('deadline_exceeded', `${what} took longer than ${timeoutMs} ms.`);
}
