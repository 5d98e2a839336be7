/** Why a start failed, where Firecracker's end is the reason: what is seen of it first is a connection that breaks. */
import { WrennError } from '@wrenn/protocol';
import { soon } from '../../signals/soon.ts';
import type { OutputReader } from '../output.ts';
import type { ExitStatus } from '../wrapped-process.ts';
import { describeExit, LOG_LINES_IN_REASON, lastWords } from './exit-reason.ts';

type Log = Pick<OutputReader, 'tail' | 'ended'> | undefined;

const DEATH_NOTICE_MS = 1_000;
const LAST_WORDS_MS = 500;

/**
 * Runs `work`; if the process dies meanwhile, that is the error, with its last words, and not the broken
 * connection that follows from it.
 */
export async function toldOfDeath(
  exited: Promise<ExitStatus>,
  log: Log,
  signal: AbortSignal,
  work: (gone: Promise<unknown>) => Promise<void>,
): Promise<void> {
  let failure: unknown;
  try {
    await work(exited);
  } catch (error) {
    failure = error;
  }
  // A dying process breaks its connections a moment before its end is told.
  const broken =
    failure instanceof WrennError && failure.code === 'vmm_api_error' && failure.cause !== undefined;
  const status = await soon(exited, broken ? DEATH_NOTICE_MS : 0, signal);
  if (status === undefined) {
    if (failure !== undefined) throw failure;
    return;
  }
  if (signal.aborted) throw failure ?? signal.reason;
  throw await died(describeExit(status), log, failure);
}

/** For a confinement that ends before there is a Firecracker: it wrote to the same log why. */
export async function withLastWords<T>(log: Log, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof WrennError && error.code === 'vmm_died') throw await died(error.message, log, error);
    throw error;
  }
}

async function died(how: string, log: Log, cause: unknown): Promise<WrennError> {
  if (log !== undefined) await soon(log.ended, LAST_WORDS_MS);
  return new WrennError('vmm_died', `${how} ${lastWords(log?.tail(LOG_LINES_IN_REASON) ?? [])}`, {
    hint: '`wrenn doctor` checks what Firecracker needs.',
    cause,
  });
}
