/**
 * Events between the watch and whoever fetches them, bounded: who does not keep up is told so by an
 * error, for a change left out in silence is worse than none.
 */
import { Code, ConnectError } from '@connectrpc/connect';

export type Next<T> =
  | { readonly kind: 'item'; readonly item: T }
  | { readonly kind: 'idle' }
  | { readonly kind: 'closed' };

export interface EventQueue<T> {
  /** False once nothing more is taken: full, failed or closed. */
  push(item: T): boolean;
  /** From now on, fetching throws the error; what waits is dropped. The first failure counts. */
  fail(error: ConnectError): void;
  /** Ends the wait of `next`. */
  close(): void;
  /** The next item, or `idle` after so long without one. One caller at a time. */
  next(idleMs: number): Promise<Next<T>>;
  /** All that waits, in order. */
  drain(): T[];
}

export function createEventQueue<T extends object>(limits: { readonly maxItems: number }): EventQueue<T> {
  let items: T[] = [];
  let failure: ConnectError | undefined;
  let closed = false;
  let wake: (() => void) | undefined;

  function fail(error: ConnectError): void {
    failure ??= error;
    items = [];
    wake?.();
  }

  /** Undefined while there is nothing to say. */
  function take(): Next<T> | undefined {
    if (failure !== undefined) throw failure;
    if (closed) return { kind: 'closed' };
    const item = items.shift();
    return item === undefined ? undefined : { kind: 'item', item };
  }

  return {
    push: (item) => {
      if (closed || failure !== undefined) return false;
      if (items.length >= limits.maxItems) {
        fail(
          new ConnectError(
            `more than ${limits.maxItems} changes were waiting to be fetched: some were lost`,
            Code.ResourceExhausted,
          ),
        );
        return false;
      }
      items.push(item);
      wake?.();
      return true;
    },
    fail,
    close: () => {
      closed = true;
      wake?.();
    },
    next: async (idleMs) => {
      const ready = take();
      if (ready !== undefined) return ready;
      const timer = await new Promise<'woken' | 'idle'>((resolve) => {
        const idle = setTimeout(() => resolve('idle'), idleMs);
        wake = () => {
          clearTimeout(idle);
          resolve('woken');
        };
      });
      wake = undefined;
      return (timer === 'idle' ? undefined : take()) ?? { kind: 'idle' };
    },
    drain: () => {
      if (failure !== undefined) throw failure;
      const drained = items;
      items = [];
      return drained;
    },
  };
}
