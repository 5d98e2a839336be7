/** Booting with a deadline, a reason and another try. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CONSOLE_INIT_STARTED, WrennError } from '@wrenn/protocol';
import { joinSignals } from '../signals/signals.ts';
import type { Microvm, MicrovmHandle, MicrovmSpec, VmmDriver } from './driver.ts';

export interface BootMicrovmOptions {
  readonly signal: AbortSignal;
  readonly onSpawned: (handle: MicrovmHandle) => Promise<void>;
  /** Resolves when the guest is of use; its failure fails the attempt. */
  readonly ready: (microvm: Microvm, signal: AbortSignal) => Promise<void>;
  /** For each attempt, from the launch on. */
  readonly bootDeadlineMs: number;
  readonly attempts: number;
  /** Told of each attempt that failed, with what the VMM could say. */
  readonly onAttemptFailed: (attempt: number, diagnosis: string, error: unknown) => void;
}

const DIAGNOSE_TIMEOUT_MS = 3_000;
const CONSOLE_LINES = 200;
const LINES_SHOWN = 3;
/** What the console has received is written down a moment after a VMM ended. */
const LAST_WORDS_MS = 100;

/**
 * Launches a microVM and waits until it is ready. One whose kernel hung before it reached init is ended
 * and tried again; one whose init ran and yet did not come up failed for a reason that would be the same
 * the next time. Throws `boot_timeout`, `vmm_died`, or what `launch` throws; nothing is left then.
 */
export async function bootMicrovm(
  driver: VmmDriver,
  spec: MicrovmSpec,
  options: BootMicrovmOptions,
): Promise<Microvm> {
  for (let attempt = 1; ; attempt += 1) {
    const microvm = await driver.launch(spec, { signal: options.signal, onSpawned: options.onSpawned });
    try {
      await waitUntilReady(microvm, options);
      return microvm;
    } catch (error) {
      const diagnosis = await diagnose(microvm);
      const lines = await microvm.consoleTail(CONSOLE_LINES);
      await microvm.kill();
      if (options.signal.aborted) throw error;
      options.onAttemptFailed(attempt, diagnosis, error);
      const hung = isTimeout(error) && !lines.some((line) => line.includes(CONSOLE_INIT_STARTED));
      if (!hung || attempt >= options.attempts) throw explain(error, lines, attempt, options);
    }
  }
}

async function waitUntilReady(microvm: Microvm, options: BootMicrovmOptions): Promise<void> {
  const attempt = new AbortController();
  const joined = joinSignals(options.signal, attempt.signal);
  const deadline = setTimeout(
    () =>
      attempt.abort(
        new WrennError('boot_timeout', `The guest did not come up within ${options.bootDeadlineMs} ms.`),
      ),
    options.bootDeadlineMs,
  );
  const died = microvm.exited.then(async ({ message, log }) => {
    await sleep(LAST_WORDS_MS);
    const words = log.slice(-LINES_SHOWN).join(' | ');
    const error = new WrennError('vmm_died', words === '' ? message : `${message} Its last words: ${words}`);
    attempt.abort(error);
    throw error;
  });
  try {
    await Promise.race([options.ready(microvm, joined.signal), died]);
  } catch (error) {
    throw attempt.signal.aborted ? attempt.signal.reason : error;
  } finally {
    clearTimeout(deadline);
    joined.release();
    // Its end is the owner's business from here on.
    died.catch(() => {});
  }
}

async function diagnose(microvm: Microvm): Promise<string> {
  try {
    return await microvm.diagnose(AbortSignal.timeout(DIAGNOSE_TIMEOUT_MS));
  } catch (error) {
    return `nothing could be learnt of it: ${WrennError.from(error).message}`;
  }
}

function isTimeout(error: unknown): boolean {
  return error instanceof WrennError && (error.code === 'boot_timeout' || error.code === 'deadline_exceeded');
}

function explain(
  error: unknown,
  lines: readonly string[],
  attempt: number,
  options: BootMicrovmOptions,
): unknown {
  if (!isTimeout(error)) return error;
  const shown = lines.slice(-LINES_SHOWN).join(' | ');
  const console = shown === '' ? 'Its console is empty.' : `The console's last lines: ${shown}`;
  const tries = attempt === 1 ? '' : ` in any of ${attempt} attempts`;
  return new WrennError(
    'boot_timeout',
    `The guest did not come up within ${options.bootDeadlineMs} ms${tries}. ${console}`,
    { hint: "A very busy host is slow to boot guests; the agent's log has the details.", cause: error },
  );
}
