/** Why a start failed, where QEMU's end is the reason: what is seen of it first is a connection that breaks. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import type { AppendedLog } from '../appended-log.ts';
import type { ExitStatus } from '../wrapped-process.ts';
import { describeExit } from './exit-reason.ts';

export interface Deathbed {
  readonly log: Pick<AppendedLog, 'tail'> | undefined;
  /** Undefined while nothing is known of its end. */
  readonly exit: () => ExitStatus | undefined;
  /** While it is, QEMU lives, and has merely refused something. */
  readonly isConnected: () => boolean;
  readonly signal: AbortSignal;
}

/**
 * So often is looked whether its wrapper has told of QEMU's end, two seconds in all. Counted, and not timed: whoever
 * stood still meanwhile is told of nothing before the next look.
 */
const LOOKS = 200;
const LOOK_INTERVAL_MS = 10;
const LOG_LINES_IN_ERROR = 3;
/** In the log it is of use, in a sentence not. */
const TIMESTAMP = /^\d{4}-\d\d-\d\dT[\d:.]+Z /;

/** If the process died, that is the error, with its last words, and not the broken connection that follows. */
export async function tellOfDeath(
  failure: unknown,
  { log, exit, isConnected, signal }: Deathbed,
): Promise<unknown> {
  if (signal.aborted || !(failure instanceof WrennError)) return failure;
  if (failure.code !== 'vmm_died' && failure.code !== 'vmm_api_error') return failure;
  if (failure.code === 'vmm_api_error') {
    for (let look = 0; look < LOOKS && exit() === undefined && !isConnected() && !signal.aborted; look++) {
      await sleep(LOOK_INTERVAL_MS);
    }
  }
  const status = exit();
  if (status === undefined && failure.code !== 'vmm_died') return failure;
  const lines = (await log?.tail(LOG_LINES_IN_ERROR).catch(() => [])) ?? [];
  const words = lines.map((line) => line.replace(TIMESTAMP, ''));
  const said = words.length === 0 ? 'It said nothing.' : `Its last words: ${words.join(' | ')}`;
  const what = status === undefined ? failure.message : describeExit(status, undefined);
  return new WrennError('vmm_died', `${what} ${said}`, {
    hint: '`wrenn doctor` checks what QEMU needs.',
    cause: failure,
  });
}
