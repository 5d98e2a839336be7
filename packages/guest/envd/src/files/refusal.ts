/** Why a request for a file is refused, as an HTTP status and a sentence. */
import { Code, ConnectError } from '@connectrpc/connect';
import { errorJson } from '../http/respond.ts';
import { logError } from '../log.ts';
import { errnoCode } from '../sys/errno.ts';

export interface Refusal extends Error {
  readonly httpStatus: number;
}

export function refusal(httpStatus: number, message: string): Refusal {
  return Object.assign(new Error(message), { httpStatus });
}

function isRefusal(error: unknown): error is Refusal {
  return error instanceof Error && 'httpStatus' in error && typeof error.httpStatus === 'number';
}

export const DISK_FULL = 507;

const STATUS_BY_ERRNO: Readonly<Record<string, number>> = {
  ENOENT: 404,
  ENOTDIR: 400,
  EISDIR: 400,
  EINVAL: 400,
  ELOOP: 400,
  ENAMETOOLONG: 400,
  ENXIO: 400,
  EACCES: 403,
  EPERM: 403,
  EROFS: 403,
  ETXTBSY: 409,
  ENOSPC: DISK_FULL,
  EDQUOT: DISK_FULL,
};

const STATUS_BY_CODE: ReadonlyMap<Code, number> = new Map([
  [Code.InvalidArgument, 400],
  [Code.Unauthenticated, 401],
  [Code.NotFound, 404],
]);

export function refusalResponse(error: unknown): Response {
  if (isRefusal(error)) return errorJson(error.httpStatus, error.message);
  if (error instanceof ConnectError) {
    const status = STATUS_BY_CODE.get(error.code);
    if (status !== undefined) return errorJson(status, error.rawMessage);
  }
  const errno = errnoCode(error);
  const status = errno === undefined ? undefined : STATUS_BY_ERRNO[errno];
  if (status === DISK_FULL) return errorJson(DISK_FULL, 'not enough disk space available');
  if (status !== undefined && error instanceof Error) return errorJson(status, error.message);
  logError('a file request failed', error);
  return errorJson(500, error instanceof Error ? error.message : 'internal error');
}
