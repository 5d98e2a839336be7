/**
 * Notices the end of a process that is nobody's child any more: it is looked at twice a second, and at once
 * when something hints at its end. A microVM that this agent started has its parent's word besides.
 */
import { isAlive, type ProcessIdentity } from '@wrenn/host';

const INTERVAL_MS = 500;
/** How long after a hint the process may take to be gone: its sockets close before it is. */
const HINT_MS = 400;
const HINT_INTERVAL_MS = 10;

export interface Watch {
  /** Resolves when the process is gone; never rejects, and never settles after `stop`. */
  readonly gone: Promise<void>;
  hint(): void;
  stop(): void;
}

export function watchProcess(identity: ProcessIdentity): Watch {
  let stopped = false;
  let hintedUntil = 0;
  let timer: NodeJS.Timeout | undefined;
  let onGone: () => void = () => {};
  const gone = new Promise<void>((resolve) => {
    onGone = resolve;
  });
  const look = async (): Promise<void> => {
    const alive = await isAlive(identity);
    if (stopped) return;
    if (!alive) {
      stopped = true;
      onGone();
      return;
    }
    const soon = performance.now() < hintedUntil;
    clearTimeout(timer);
    timer = setTimeout(look, soon ? HINT_INTERVAL_MS : INTERVAL_MS);
    timer.unref();
  };
  void look();
  return {
    gone,
    hint() {
      hintedUntil = performance.now() + HINT_MS;
      void look();
    },
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
