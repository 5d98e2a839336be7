/** Sandboxes that are only kept for their reason: so many at most, and only for so long. */

export interface Retained {
  add(id: string): void;
  /** It is gone in another way. */
  forget(id: string): void;
}

export function createRetained(
  maxCount: number,
  maxAgeMs: number,
  onDropped: (id: string) => void,
): Retained {
  const timers = new Map<string, NodeJS.Timeout>();

  const drop = (id: string): void => {
    forget(id);
    onDropped(id);
  };
  const forget = (id: string): void => {
    clearTimeout(timers.get(id));
    timers.delete(id);
  };

  return {
    forget,
    add: (id) => {
      if (timers.has(id)) return;
      timers.set(id, setTimeout(() => drop(id), Math.min(maxAgeMs, 2 ** 31 - 1)).unref());
      for (const oldest of timers.keys()) {
        if (timers.size <= maxCount) break;
        drop(oldest);
      }
    },
  };
}
