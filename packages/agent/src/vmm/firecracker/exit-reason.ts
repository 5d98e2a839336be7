/** Why a Firecracker process ended, in one sentence, and what it said of it. */
import { constants } from 'node:os';
import { printable } from '../printable.ts';
import type { ExitStatus } from '../wrapped-process.ts';

/** Five are about its end alone; what was before them says why a vCPU could not go on. */
export const LOG_LINES_IN_REASON = 8;

const TRIPLE_FAULT = 'Unexpected exit reason on vcpu run: Shutdown';

/** Firecracker's own codes (`FcExitCode`): it catches these signals, logs, and exits. */
const OWN_CODES: ReadonlyMap<number, string> = new Map([
  [0, 'Firecracker ended because the guest shut down, rebooted or panicked.'],
  [1, 'Firecracker ended with an error.'],
  [2, 'Firecracker ended with an error of its own making.'],
  [148, 'Firecracker was stopped by its seccomp filter: it tried a forbidden system call.'],
  [149, 'Firecracker ended on SIGBUS: the memory or disk behind the guest may have run out.'],
  [150, 'Firecracker ended on SIGSEGV.'],
  [151, 'Firecracker ended on SIGXFSZ: it reached its limit on file size.'],
  [152, 'Firecracker refused its configuration.'],
  [153, 'Firecracker refused its command line.'],
  [154, 'Firecracker ended on SIGXCPU: it reached its limit on CPU time.'],
  [155, 'Firecracker ended on SIGPIPE.'],
  [156, 'Firecracker ended on SIGHUP.'],
  [157, 'Firecracker ended on SIGILL.'],
]);

export function describeExit(status: ExitStatus): string {
  const signal = signalOf(status);
  if (signal !== undefined) return `Firecracker was killed by ${signal}.`;
  if (status.code === null) return 'Firecracker ended; an earlier agent started it, so how is not known.';
  return OWN_CODES.get(status.code) ?? `Firecracker ended with code ${status.code}.`;
}

/** The same with its last words where it ended for an error, or nobody knows how: nothing else tells which. */
export function describeEnd(status: ExitStatus, log: readonly string[]): string {
  // KVM's word for a triple fault, which is the guest's own end and, to Firecracker, an error like any other.
  const byItself = status.code === 1 || (status.code === null && status.signal === null);
  if (byItself && log.slice(-LOG_LINES_IN_REASON).some((line) => line.includes(TRIPLE_FAULT))) {
    return 'Firecracker ended because the CPU of its guest shut down: a fault that could not be delivered (triple fault).';
  }
  const how = describeExit(status);
  const isClear = status.code === 0 || signalOf(status) !== undefined;
  return isClear ? how : `${how} ${lastWords(log)}`;
}

/** A wrapper tells of a signal as shells do, by a code; some of Firecracker's own are as large. */
function signalOf({ code, signal }: ExitStatus): string | undefined {
  if (signal !== null) return signal;
  if (code === null || OWN_CODES.has(code)) return undefined;
  return Object.entries(constants.signals).find(([, number]) => number + 128 === code)?.[0];
}

export function lastWords(log: readonly string[]): string {
  const words = log.slice(-LOG_LINES_IN_REASON).map((line) => printable(line));
  return words.length === 0 ? 'It said nothing.' : `Its last words: ${words.join(' | ')}`;
}
