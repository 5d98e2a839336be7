/** How a process ended, in the words that clients know: `exit status 3`, `signal: killed`. */
import { constants } from 'node:os';

export interface ExitStatus {
  /** -1 when a signal ended the process. */
  readonly exitCode: number;
  readonly exited: boolean;
  readonly status: string;
  /** Undefined for exit code 0. */
  readonly error: string | undefined;
}

const SIGNAL_WORDS: Readonly<Record<string, string>> = {
  SIGHUP: 'hangup',
  SIGINT: 'interrupt',
  SIGQUIT: 'quit',
  SIGILL: 'illegal instruction',
  SIGTRAP: 'trace/breakpoint trap',
  SIGABRT: 'aborted',
  SIGBUS: 'bus error',
  SIGFPE: 'floating point exception',
  SIGKILL: 'killed',
  SIGUSR1: 'user defined signal 1',
  SIGSEGV: 'segmentation fault',
  SIGUSR2: 'user defined signal 2',
  SIGPIPE: 'broken pipe',
  SIGALRM: 'alarm clock',
  SIGTERM: 'terminated',
};

/** `signal` is its name, or its number where it has none. */
export function exitStatus(code: number | null, signal: string | number | null): ExitStatus {
  if (signal !== null) {
    const status = `signal: ${signalWords(signal)}`;
    return { exitCode: -1, exited: false, status, error: status };
  }
  const exitCode = code ?? -1;
  const status = `exit status ${exitCode}`;
  return { exitCode, exited: true, status, error: exitCode === 0 ? undefined : status };
}

function signalWords(signal: string | number): string {
  if (typeof signal === 'number') return `signal ${signal}`;
  const numbers: Readonly<Record<string, number>> = constants.signals;
  return SIGNAL_WORDS[signal] ?? `signal ${numbers[signal] ?? signal}`;
}
