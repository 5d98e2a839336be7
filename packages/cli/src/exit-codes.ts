/**
 * What `wrenn` exits with. `run` and `exec` pass the command's own code on, so Wrenn's failures there are
 * told by 125, as docker does.
 */
import type { ErrorKind } from '@wrenn/protocol';

export const EXIT = {
  ok: 0,
  failure: 1,
  usage: 2,
  notFound: 3,
  unavailable: 4,
  conflict: 5,
  timeout: 124,
  /** Of `run`, `exec` and `shell`: Wrenn failed, not the command. */
  wrennFailed: 125,
  /** Added to the number of the signal that ended the command, or this program. */
  signalBase: 128,
} as const;

const BY_KIND: Readonly<Record<ErrorKind, number>> = {
  invalid: EXIT.usage,
  not_found: EXIT.notFound,
  conflict: EXIT.conflict,
  exhausted: EXIT.unavailable,
  unavailable: EXIT.unavailable,
  timeout: EXIT.timeout,
  cancelled: EXIT.failure,
  denied: EXIT.failure,
  internal: EXIT.failure,
};

export function exitCodeOf(kind: ErrorKind): number {
  return BY_KIND[kind];
}

export const EXIT_CODES_HELP = `
Exit codes: 0 done · 1 failed · 2 wrong usage or value · 3 not found · 4 not available (not set up, a limit)
  5 not possible now · 124 timed out · run, exec and shell: the command's own code, 125 if Wrenn failed,
  128 + N if signal N ended the command`;
