import { constants } from 'node:os';

/** An error of a system call, in the same form as those of node:fs: `code` is the errno's name. */
export interface SystemError extends Error {
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;
}

export function systemError(errno: number, syscall: string, subject?: string): SystemError {
  const code = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `E${errno}`;
  const about = subject === undefined ? '' : ` '${subject}'`;
  return Object.assign(new Error(`${code}: ${syscall}${about}`), { code, errno, syscall });
}

/** The errno's name of an error from a system call, of node:fs or of ours; undefined for any other. */
export function errnoCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}
