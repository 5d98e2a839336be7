/** What went wrong with a guest, as our errors. Texts from the guest are cut and escaped before anyone sees them. */
import { Code, ConnectError } from '@connectrpc/connect';
import { type ErrorCode, WrennError } from '@wrenn/protocol';
import { abortReason } from '../signals/signals.ts';

const TEXT_MAX_CHARS = 300;

/** A guest's words made harmless: no control characters, no direction marks, no length. */
export function guestText(text: string): string {
  const cut = text.length > TEXT_MAX_CHARS ? `${text.slice(0, TEXT_MAX_CHARS)}…` : text;
  return cut.replace(/[\p{C}\u2028\u2029]/gu, (character) => {
    const point = character.codePointAt(0) ?? 0;
    return `\\u{${point.toString(16)}}`;
  });
}

export function unreachable(what: string, cause: unknown): WrennError {
  return new WrennError('guest_unreachable', `The guest agent cannot be reached: ${what}.`, {
    hint: 'The sandbox may be overloaded or may have ended; its logs may say more.',
    cause,
  });
}

export function misbehaved(what: string, cause?: unknown): WrennError {
  return new WrennError('guest_protocol', `The guest agent did not keep to its protocol: ${what}.`, {
    hint: 'Something inside of the sandbox may have replaced or broken its agent.',
    cause,
  });
}

/** An error of an RPC to the guest. `signal` tells a cancelled call from a guest that says it was. */
export function fromGuest(thrown: unknown, signal?: AbortSignal): WrennError {
  if (thrown instanceof WrennError) return thrown;
  if (signal?.aborted) return abortReason(signal);
  const error = ConnectError.from(thrown);
  const text = guestText(error.rawMessage);
  const say = (code: ErrorCode): WrennError =>
    new WrennError(code, `The guest says: ${text}`, { cause: error });
  switch (error.code) {
    case Code.NotFound:
      return say(text.startsWith('process') ? 'process_not_found' : 'file_not_found');
    case Code.InvalidArgument:
    case Code.AlreadyExists:
    case Code.FailedPrecondition:
    case Code.OutOfRange:
      return say('invalid_argument');
    case Code.PermissionDenied:
      return say('file_access_denied');
    case Code.Unauthenticated:
      // The agent's own token is right; what can be wrong is the user's name.
      return say('user_not_found');
    case Code.DeadlineExceeded:
      return new WrennError('deadline_exceeded', 'The guest agent did not answer in time.', { cause: error });
    case Code.Unavailable:
    case Code.Aborted:
    case Code.Canceled:
      return unreachable('the connection failed', error);
    case Code.Unimplemented:
      return say('invalid_argument');
    default:
      return misbehaved(text, error);
  }
}

/** An HTTP status of the guest's /files. */
export function fromFileStatus(status: number, text: string, path: string): WrennError {
  const said = guestText(text);
  const about = `${JSON.stringify(path.slice(0, 200))} (${said === '' ? `status ${status}` : said})`;
  switch (status) {
    case 404:
      return new WrennError('file_not_found', `There is no file ${about}.`, { field: 'path' });
    case 400:
      return new WrennError('invalid_path', `The path cannot be used: ${about}.`, { field: 'path' });
    case 401:
      return new WrennError('user_not_found', `The guest refuses the user for ${about}.`, { field: 'user' });
    case 403:
      return new WrennError('file_access_denied', `Access is denied to ${about}.`, { field: 'path' });
    case 507:
      return new WrennError('disk_full', `The sandbox's own disk is full: ${about}.`, {
        hint: 'Remove files in it, or create it with a larger disk.',
      });
    default:
      return misbehaved(`it answered ${about} with status ${status}`);
  }
}
