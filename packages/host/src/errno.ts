/** Errors of the system, by their codes. */

/** A system call that failed, or a program that could not be started, with one of these: `ENOENT`, … */
export function hasErrno(error: unknown, ...codes: readonly string[]): error is NodeJS.ErrnoException {
  return error instanceof Error && 'code' in error && codes.some((code) => code === error.code);
}

/** As the system says it, or a program in its words. */
export function isDiskFull(error: unknown): boolean {
  return (
    hasErrno(error, 'ENOSPC') || (error instanceof Error && /no space left on device/i.test(error.message))
  );
}
