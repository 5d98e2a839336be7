/** Waits for what is bound to follow, as the end of a process whose connection has broken. */
import { setTimeout as sleep } from 'node:timers/promises';

const LOOK_INTERVAL_MS = 10;

/**
 * What the promise comes to within so much time, or undefined. The time is that of many looks, each in a turn of its own:
 * after a standstill of this process timers come first, and whoever had waited for a single one would be told that nothing
 * has come, while it is there to be read. The signal ends the wait at the next look.
 */
export async function soon<T>(
  promise: Promise<T>,
  noticeMs: number,
  signal?: AbortSignal,
): Promise<T | undefined> {
  let isSettled = false;
  const settle = (): void => {
    isSettled = true;
  };
  promise.then(settle, settle);
  const late = async (): Promise<undefined> => {
    await sleep(0);
    for (let leftMs = noticeMs; leftMs > 0 && !isSettled && !signal?.aborted; leftMs -= LOOK_INTERVAL_MS) {
      await sleep(LOOK_INTERVAL_MS);
    }
  };
  return await Promise.race([promise, late()]);
}
