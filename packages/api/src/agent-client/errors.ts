/** What the agent's client throws, as the error that the agent meant: its code and hint travel in an ErrorDetail. */
import { Code, ConnectError } from '@connectrpc/connect';
import { ERROR_KINDS, type ErrorCode, WrennError } from '@wrenn/protocol';
import { ErrorDetailSchema } from '@wrenn/protocol/agent';

export function fromAgentError(thrown: unknown): WrennError {
  if (thrown instanceof WrennError) return thrown;
  const error = ConnectError.from(thrown);
  const [detail] = error.findDetails(ErrorDetailSchema);
  if (detail !== undefined && isErrorCode(detail.code)) {
    return new WrennError(detail.code, asWritten(error.rawMessage), {
      ...(detail.hint === '' ? {} : { hint: asWritten(detail.hint) }),
      ...(detail.field === '' ? {} : { field: asWritten(detail.field) }),
      cause: error,
    });
  }
  switch (error.code) {
    case Code.Canceled:
      return new WrennError('cancelled', 'The request was cancelled.', { cause: error });
    case Code.DeadlineExceeded:
      return new WrennError('deadline_exceeded', 'The host agent did not answer in time.', { cause: error });
    // Broken off in the middle: what was asked may have been done.
    case Code.Aborted:
    case Code.Unavailable:
      return new WrennError('agent_not_running', 'The host agent cannot be reached.', { cause: error });
    case Code.InvalidArgument:
      return new WrennError('invalid_argument', error.rawMessage, { cause: error });
    case Code.NotFound:
      return new WrennError('sandbox_not_found', error.rawMessage, { cause: error });
    case Code.FailedPrecondition:
      return new WrennError('sandbox_wrong_state', error.rawMessage, { cause: error });
    default:
      // Node's own word on a stream that an agent on its way out did not take, or broke off.
      if (isBroken(error.cause)) {
        return new WrennError('agent_not_running', 'The host agent cannot be reached.', { cause: error });
      }
      return new WrennError('internal', 'The host agent failed.', { cause: error });
  }
}

function isBroken(cause: unknown): boolean {
  return (
    cause instanceof Error &&
    'code' in cause &&
    typeof cause.code === 'string' &&
    cause.code.startsWith('ERR_HTTP2_')
  );
}

/** Of what the API's callers know by other names than the agent does. */
const FIELDS: Readonly<Record<string, string>> = {
  'network.allow_out': 'network.allowOut',
  'network.deny_out': 'network.denyOut',
};

function asWritten(text: string): string {
  return text.replace(/network\.(allow|deny)_out/g, (field) => FIELDS[field] ?? field);
}

function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(ERROR_KINDS, code);
}
