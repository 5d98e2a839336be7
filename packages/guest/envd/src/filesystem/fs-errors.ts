/** What an error of a file system call means to the caller of an RPC. */
import { Code, ConnectError } from '@connectrpc/connect';
import { errnoCode } from '../sys/errno.ts';

const CODES: Readonly<Record<string, Code>> = {
  ENOENT: Code.NotFound,
  EEXIST: Code.AlreadyExists,
  ENOTDIR: Code.InvalidArgument,
  EISDIR: Code.InvalidArgument,
  EINVAL: Code.InvalidArgument,
  ENAMETOOLONG: Code.InvalidArgument,
  ENOTEMPTY: Code.FailedPrecondition,
  EBUSY: Code.FailedPrecondition,
  EROFS: Code.FailedPrecondition,
  ELOOP: Code.FailedPrecondition,
  EXDEV: Code.FailedPrecondition,
  EACCES: Code.PermissionDenied,
  EPERM: Code.PermissionDenied,
  ENOSPC: Code.ResourceExhausted,
  EDQUOT: Code.ResourceExhausted,
  EMFILE: Code.ResourceExhausted,
  ENFILE: Code.ResourceExhausted,
  ENOMEM: Code.ResourceExhausted,
};

/** True where the path leads to nothing, be it that a parent is missing or is no directory. */
export function isMissing(error: unknown): boolean {
  const code = errnoCode(error);
  return code === 'ENOENT' || code === 'ENOTDIR';
}

/** The same in a walk, where a path may also have become longer than any system call takes. */
export function isOutOfReach(error: unknown): boolean {
  return isMissing(error) || errnoCode(error) === 'ENAMETOOLONG';
}

/** The error as an RPC's: one that is already is kept; `what` is what was being done, to what. */
export function rpcError(error: unknown, what: string): ConnectError {
  if (error instanceof ConnectError) return error;
  const errno = errnoCode(error);
  const code = errno === undefined ? undefined : CODES[errno];
  const reason = error instanceof Error ? error.message : String(error);
  return new ConnectError(`${what}: ${reason}`, code ?? Code.Internal, undefined, undefined, error);
}
