/**
 * Ends a VMM that is of no use any more though its process lives: one that hangs, that cannot be talked to,
 * or whose guest cannot go on. Its end then has this as the reason.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import type { ExitReason, Microvm } from './driver.ts';

export interface WatchdogOptions {
  readonly intervalMs: number;
  /** So many questions in a row must go wrong: a host that was asleep or overloaded is no reason to kill. */
  readonly misses: number;
}

export const DEFAULT_WATCHDOG: WatchdogOptions = { intervalMs: 10_000, misses: 3 };

/** The same microVM, asked for its status from time to time. `status` must have a deadline of its own. */
export function withWatchdog(
  microvm: Microvm,
  { intervalMs, misses }: WatchdogOptions,
  onWarning: (message: string, cause: unknown) => void,
): Microvm {
  const done = new AbortController();
  let verdict: string | undefined;

  const watch = async (): Promise<void> => {
    for (let missed = 0; ; ) {
      try {
        await sleep(intervalMs, undefined, { signal: done.signal, ref: false });
        await microvm.status(done.signal);
        missed = 0;
      } catch (error) {
        if (done.signal.aborted) return;
        missed += 1;
        const { message } = WrennError.from(error);
        onWarning(`The microVM's health is in doubt (${missed} of ${misses}): ${message}`, error);
        if (missed < misses) continue;
        verdict = `The VMM was killed by its watchdog. ${message}`;
        return await microvm.kill();
      }
    }
  };
  watch().catch((error: unknown) => onWarning('A VMM that hangs could not be killed', error));

  return {
    ...microvm,
    exited: microvm.exited.then((reason): ExitReason => {
      done.abort();
      return verdict === undefined ? reason : { ...reason, message: verdict };
    }),
    kill() {
      done.abort();
      return microvm.kill();
    },
    detach() {
      done.abort();
      microvm.detach();
    },
  };
}
