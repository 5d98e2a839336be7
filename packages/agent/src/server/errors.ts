/** WrennError to ConnectError and back: the code and the hint travel as an ErrorDetail, the cause stays here. */
import { Code, ConnectError } from '@connectrpc/connect';
import { ERROR_KINDS, type ErrorCode, type ErrorKind, WrennError } from '@wrenn/protocol';
import { ErrorDetailSchema } from '@wrenn/protocol/agent';

const CODES: Readonly<Record<ErrorKind, Code>> = {
  invalid: Code.InvalidArgument,
  not_found: Code.NotFound,
  conflict: Code.FailedPrecondition,
  exhausted: Code.ResourceExhausted,
  unavailable: Code.Unavailable,
  timeout: Code.DeadlineExceeded,
  cancelled: Code.Canceled,
  denied: Code.PermissionDenied,
  internal: Code.Internal,
};

export function toConnectError(error: WrennError): ConnectError {
  const detail = { code: error.code, hint: error.hint ?? '', field: error.field ?? '' };
  return new ConnectError(error.message, CODES[error.kind], undefined, [
    { desc: ErrorDetailSchema, value: detail },
  ]);
}

/** What the agent's client threw, as the error that the agent meant. */
export function fromConnectError(thrown: unknown): WrennError {
  if (thrown instanceof WrennError) return thrown;
  const error = ConnectError.from(thrown);
  const [detail] = error.findDetails(ErrorDetailSchema);
  if (detail !== undefined && isErrorCode(detail.code)) {
    return new WrennError(detail.code, error.rawMessage, {
      ...(detail.hint === '' ? {} : { hint: detail.hint }),
      ...(detail.field === '' ? {} : { field: detail.field }),
      cause: error,
    });
  }
  switch (error.code) {
    case Code.Canceled:
      return new WrennError('cancelled', 'The request was cancelled.', { cause: error });
    case Code.DeadlineExceeded:
      return new WrennError('deadline_exceeded', 'The agent did not answer in time.', { cause: error });
    case Code.Unavailable:
      return new WrennError('agent_not_running', 'The agent cannot be reached.', {
        hint: '`wrenn agent` starts it; `wrenn doctor` tells what hinders it.',
        cause: error,
      });
    case Code.ResourceExhausted:
      return new WrennError('invalid_argument', `A message is too large: ${error.rawMessage}.`, {
        cause: error,
      });
    case Code.InvalidArgument:
      return new WrennError('invalid_argument', error.rawMessage, { cause: error });
    default:
      return new WrennError('internal', `The agent failed: ${error.rawMessage}`, { cause: error });
  }
}

function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(ERROR_KINDS, code);
}
