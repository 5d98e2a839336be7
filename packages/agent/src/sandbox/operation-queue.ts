/** One sandbox's operations, strictly one after the other. Bounded; the last one pre-empts all others. */
import { WrennError } from '@wrenn/protocol';

export interface OperationQueue {
  /**
   * Runs the work when all before it has settled. Its signal aborts when the queue is closed.
   * Throws `sandbox_wrong_state` when too many wait, and the reason of `close` when it was closed before.
   */
  run<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T>;
  /**
   * Aborts what runs, refuses what waits, and resolves when nothing runs any more. Idempotent: the first
   * reason stands.
   */
  close(reason: WrennError): Promise<void>;
}

export function createOperationQueue(maxWaiting: number): OperationQueue {
  const closing = new AbortController();
  let last: Promise<unknown> = Promise.resolve();
  let waiting = 0;

  return {
    run: (work) => {
      if (waiting > maxWaiting) {
        return Promise.reject(
          new WrennError('sandbox_wrong_state', 'Too many operations wait for this sandbox.', {
            hint: 'Wait for the earlier ones to end.',
          }),
        );
      }
      waiting++;
      const mine = last.then(async () => {
        waiting--;
        closing.signal.throwIfAborted();
        try {
          return await work(closing.signal);
        } catch (error) {
          // That something was aborted is no answer; why it was is.
          if (closing.signal.aborted && isAbort(error)) throw closing.signal.reason;
          throw error;
        }
      });
      last = mine.catch(() => {});
      return mine;
    },
    close: async (reason) => {
      closing.abort(reason);
      await last;
    },
  };
}

function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === 'AbortError';
}
