/** Connect's error codes as they go over the wire, and the HTTP status of each (connectrpc.com/docs/protocol). */
import { Code, ConnectError } from '@connectrpc/connect';
import { logError } from '../log.ts';

const WIRE: Readonly<Record<Code, { readonly name: string; readonly httpStatus: number }>> = {
  [Code.Canceled]: { name: 'canceled', httpStatus: 499 },
  [Code.Unknown]: { name: 'unknown', httpStatus: 500 },
  [Code.InvalidArgument]: { name: 'invalid_argument', httpStatus: 400 },
  [Code.DeadlineExceeded]: { name: 'deadline_exceeded', httpStatus: 504 },
  [Code.NotFound]: { name: 'not_found', httpStatus: 404 },
  [Code.AlreadyExists]: { name: 'already_exists', httpStatus: 409 },
  [Code.PermissionDenied]: { name: 'permission_denied', httpStatus: 403 },
  [Code.ResourceExhausted]: { name: 'resource_exhausted', httpStatus: 429 },
  [Code.FailedPrecondition]: { name: 'failed_precondition', httpStatus: 400 },
  [Code.Aborted]: { name: 'aborted', httpStatus: 409 },
  [Code.OutOfRange]: { name: 'out_of_range', httpStatus: 400 },
  [Code.Unimplemented]: { name: 'unimplemented', httpStatus: 501 },
  [Code.Internal]: { name: 'internal', httpStatus: 500 },
  [Code.Unavailable]: { name: 'unavailable', httpStatus: 503 },
  [Code.DataLoss]: { name: 'data_loss', httpStatus: 500 },
  [Code.Unauthenticated]: { name: 'unauthenticated', httpStatus: 401 },
};

export interface WireError {
  readonly httpStatus: number;
  readonly json: { readonly code: string; readonly message: string };
}

/** Callers are told `internal error` of what is no ConnectError; what it was is for the log. */
export function toWireError(error: unknown, method: string): WireError {
  if (!(error instanceof ConnectError)) {
    if (error instanceof Error && error.name === 'AbortError')
      return wire(Code.Canceled, 'the call was cancelled');
    logError(`${method} failed`, error);
    return wire(Code.Internal, 'internal error');
  }
  return wire(error.code, error.rawMessage);
}

function wire(code: Code, message: string): WireError {
  const { name, httpStatus } = WIRE[code];
  return { httpStatus, json: { code: name, message } };
}
