/** A process's end as one number, the way a shell would report it. */
import type { ProcessEvent_EndEvent } from '@wrenn/protocol/process';

/** envd's words for the signals, which are Go's; `(core dumped)` may follow. */
const SIGNAL_NUMBERS: Readonly<Record<string, number>> = {
  hangup: 1,
  interrupt: 2,
  quit: 3,
  'illegal instruction': 4,
  'trace/breakpoint trap': 5,
  aborted: 6,
  'bus error': 7,
  'floating point exception': 8,
  killed: 9,
  'user defined signal 1': 10,
  'segmentation fault': 11,
  'user defined signal 2': 12,
  'broken pipe': 13,
  'alarm clock': 14,
  terminated: 15,
};
const UNKNOWN_SIGNAL_EXIT_CODE = 255;

/** 0 to 255. A status that cannot be understood is 255: never a success. */
export function exitCodeOf(end: Pick<ProcessEvent_EndEvent, 'exitCode' | 'exited' | 'status'>): number {
  if (end.exited && end.exitCode >= 0) return end.exitCode & 0xff;
  const words = /^signal: (.{1,60}?)(?: \(core dumped\))?$/.exec(end.status)?.[1] ?? '';
  const number = SIGNAL_NUMBERS[words] ?? Number(/^signal (\d{1,2})$/.exec(words)?.[1] ?? Number.NaN);
  return number > 0 && number < 65 ? 128 + number : UNKNOWN_SIGNAL_EXIT_CODE;
}
