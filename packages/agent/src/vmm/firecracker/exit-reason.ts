/** Why a Firecracker process ended, in one sentence. */
import { constants } from 'node:os';
import type { ExitStatus } from '../wrapped-process.ts';

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
  if (status.signal !== null) return `Firecracker was killed by ${status.signal}.`;
  if (status.code === null) return 'Firecracker ended; an earlier agent started it, so how is not known.';
  const own = OWN_CODES.get(status.code);
  if (own !== undefined) return own;
  // A wrapper tells of a signal as shells do.
  const signal = Object.entries(constants.signals).find(([, number]) => number + 128 === status.code)?.[0];
  if (signal !== undefined) return `Firecracker was killed by ${signal}.`;
  return `Firecracker ended with code ${status.code}.`;
}
