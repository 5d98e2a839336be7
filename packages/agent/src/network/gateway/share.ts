/**
 * What each sandbox may take of the gateway's time. There is one thread for all of them, so that is time in which the
 * others wait: it is measured as things are done for a sandbox, and what comes next may have to wait.
 */

/** One sandbox's. */
export interface Share {
  /** How long what comes next has to wait, as far as one can tell now. */
  waitMs(): number;
  /** Does it, at the sandbox's expense. */
  run<T>(work: () => T): T;
  /** Does it when it is the sandbox's turn, and its own among the sandbox's: one thing at a time, between all others'. */
  inTurn(work: () => void): void;
}

const WINDOW_MS = 100;
/** What all sandboxes may take of a window; the rest is for who comes when it is used up. */
const USED_MAX_MS = 80;
/** For what is not seen here of each turn, in Node and in the kernel; many small ones are as much work as large ones. */
const TURN_MS = 0.1;

/**
 * Nobody waits while there is time. When it is used up, those wait until the next window who had as much as an equal part
 * for each who had any. What one has taken beyond a window is taken from it in the next ones.
 */
export function createShares(now = () => performance.now()): () => Share {
  let startedAt = now();
  let windows = 0;
  let usedMs = 0;
  const active = new Set<Share>();
  const roll = (): void => {
    const passed = Math.floor((now() - startedAt) / WINDOW_MS);
    if (passed <= 0) return;
    windows += passed;
    startedAt += passed * WINDOW_MS;
    usedMs = Math.max(0, usedMs - passed * USED_MAX_MS);
    active.clear();
  };

  return () => {
    let [ownMs, inWindow, isRunning] = [0, windows, false];
    const update = (): void => {
      roll();
      ownMs = Math.max(0, ownMs - (windows - inWindow) * USED_MAX_MS);
      inWindow = windows;
    };
    const charge = (ms: number): void => {
      update();
      ownMs += ms;
      usedMs += ms;
      active.add(share);
    };
    const queue: (() => void)[] = [];
    let isTaken = false;
    const take = (): void => {
      const waitMs = share.waitMs();
      if (waitMs > 0) return void setTimeout(take, waitMs);
      const work = queue.shift();
      isTaken = work !== undefined;
      if (work === undefined) return;
      setImmediate(take);
      charge(TURN_MS);
      share.run(work);
    };
    const share: Share = {
      waitMs: () => {
        update();
        const sharers = active.size + (active.has(share) ? 0 : 1);
        if (usedMs < USED_MAX_MS || ownMs < USED_MAX_MS / sharers) return 0;
        return Math.max(1, startedAt + WINDOW_MS - now());
      },
      run: (work) => {
        if (isRunning) return work();
        isRunning = true;
        const at = now();
        try {
          return work();
        } finally {
          isRunning = false;
          charge(now() - at);
        }
      },
      inTurn: (work) => {
        queue.push(work);
        if (!isTaken) setImmediate(take);
        isTaken = true;
      },
    };
    return share;
  };
}
