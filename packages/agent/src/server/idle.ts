/** An agent that was started on demand leaves when nobody has needed it for a while, whatever is done to the host's clock. */

export interface IdleWatchOptions {
  /** 0 means never. */
  readonly idleTimeoutMs: number;
  readonly isBusy: () => boolean;
  /** Of performance.now(). */
  readonly lastActiveAtMs: () => number;
  /** Called once. */
  readonly onIdle: () => void;
}

export interface IdleWatch {
  stop(): void;
}

const LOOKS_PER_TIMEOUT = 10;
const LOOK_MAX_MS = 5_000;

export function createIdleWatch(options: IdleWatchOptions): IdleWatch {
  const { idleTimeoutMs, isBusy, lastActiveAtMs, onIdle } = options;
  if (idleTimeoutMs === 0) return { stop: () => {} };
  let busyUntilMs = performance.now();
  const look = (): void => {
    if (isBusy()) busyUntilMs = performance.now();
    if (performance.now() - Math.max(busyUntilMs, lastActiveAtMs()) < idleTimeoutMs) return;
    clearInterval(timer);
    onIdle();
  };
  const intervalMs = Math.min(LOOK_MAX_MS, Math.max(10, Math.ceil(idleTimeoutMs / LOOKS_PER_TIMEOUT)));
  const timer = setInterval(look, intervalMs);
  return { stop: () => clearInterval(timer) };
}
