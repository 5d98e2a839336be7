/**
 * Carries a process's output to whoever follows it.
 *
 * Every follower has its own short queue. Who publishes waits until all queues have room, so the
 * process is throttled by its slowest follower and nothing grows. A follower that leaves no longer
 * counts; without any, output is dropped at once, so that the process goes on.
 */

export type Next<T> =
  | { readonly kind: 'item'; readonly item: T }
  /** Nothing came for as long as the caller wanted to wait. */
  | { readonly kind: 'idle' }
  /** The process has ended and all of its output was taken. */
  | { readonly kind: 'ended' }
  /** This subscription was closed. */
  | { readonly kind: 'closed' };

export interface Subscription<T> {
  /** One call at a time. */
  next(idleMs: number): Promise<Next<T>>;
  /** Idempotent; a waiting `next` answers `closed`. */
  close(): void;
}

export interface OutputHub<T> {
  /** Resolves when there is room for more. */
  publish(item: T): Promise<void>;
  /** To be called once, after the last publish. */
  end(): void;
  subscribe(): Subscription<T>;
}

interface Follower<T> {
  readonly queue: T[];
  closed: boolean;
  wake: (() => void) | undefined;
}

/** A queue may go over this by one item for each of the concurrent publishers. */
const QUEUE_ITEMS = 2;

export function createOutputHub<T>(): OutputHub<T> {
  const followers = new Set<Follower<T>>();
  let waitingForRoom: (() => void)[] = [];
  let ended = false;

  const isFull = () => [...followers].some((follower) => follower.queue.length >= QUEUE_ITEMS);

  function releaseIfRoom(): void {
    if (isFull()) return;
    const released = waitingForRoom;
    waitingForRoom = [];
    for (const release of released) release();
  }

  function take(follower: Follower<T>): Next<T> | undefined {
    if (follower.closed) return { kind: 'closed' };
    const item = follower.queue.shift();
    if (item !== undefined) {
      releaseIfRoom();
      return { kind: 'item', item };
    }
    return ended ? { kind: 'ended' } : undefined;
  }

  return {
    publish: async (item) => {
      for (const follower of followers) {
        follower.queue.push(item);
        follower.wake?.();
      }
      while (isFull()) await new Promise<void>((resolve) => waitingForRoom.push(resolve));
    },
    end: () => {
      ended = true;
      for (const follower of followers) follower.wake?.();
    },
    subscribe: () => {
      const follower: Follower<T> = { queue: [], closed: false, wake: undefined };
      followers.add(follower);
      return {
        next: async (idleMs) => {
          const ready = take(follower);
          if (ready !== undefined) return ready;
          const woken = await new Promise<boolean>((resolve) => {
            const timer = setTimeout(() => resolve(false), idleMs);
            follower.wake = () => {
              clearTimeout(timer);
              resolve(true);
            };
          });
          follower.wake = undefined;
          return (woken ? take(follower) : undefined) ?? { kind: 'idle' };
        },
        close: () => {
          if (follower.closed) return;
          follower.closed = true;
          followers.delete(follower);
          follower.queue.length = 0;
          follower.wake?.();
          releaseIfRoom();
        },
      };
    },
  };
}
