/** One moment in the future at which something happens; correct over any distance. */

export interface Deadline {
  /** Replaces the moment set before; undefined means never. */
  set(atMs: number | undefined): void;
}

/** One timer's longest wait: beyond it, setTimeout would fire at once. */
export const TIMER_MAX_MS = 2 ** 31 - 1;

/** Calls `onReached` once for each moment set, unless another was set before it came. */
export function createDeadline(onReached: () => void, nowMs: () => number = Date.now): Deadline {
  let timer: NodeJS.Timeout | undefined;

  const wait = (atMs: number): void => {
    const leftMs = atMs - nowMs();
    timer = setTimeout(
      () => {
        // The wall clock may have been set meanwhile, and the timer may be one of several.
        if (nowMs() < atMs) wait(atMs);
        else onReached();
      },
      Math.max(0, Math.min(leftMs, TIMER_MAX_MS)),
    );
    // The agent's socket keeps it alive, not a sandbox's end years ahead.
    timer.unref();
  };

  return {
    set: (atMs) => {
      clearTimeout(timer);
      if (atMs !== undefined) wait(atMs);
    },
  };
}
