/** What is said before any route is asked, in the one form that every error has. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { isWaitedOn } from './when-over.ts';

const REASONS: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  404: 'Not Found',
  408: 'Request Timeout',
  417: 'Expectation Failed',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
};

/** For a socket whose HTTP is at its end. */
export function rawRefusal(
  status: number,
  message: string,
  headers: Readonly<Record<string, string>> = {},
): string {
  const body = JSON.stringify({ code: status, message });
  return [
    `HTTP/1.1 ${status} ${REASONS[status] ?? 'Error'}`,
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}

/** Last words have reached whoever wants them by then. */
const LAST_WORDS_MS = 2_000;

/**
 * For a socket that no server looks after any more, and whose last words are being written: it is closed even if its
 * client never ends its own side. What else comes on it is nobody's.
 */
export function closeOnceWritten(socket: Duplex): void {
  socket.once('finish', () => {
    socket.resume();
    const timer = setTimeout(() => socket.destroy(), LAST_WORDS_MS);
    socket.once('close', () => clearTimeout(timer));
  });
}

/** The connection ends with it: what else comes on it belongs to a request that was not understood. */
export function refuse(response: ServerResponse, status: number, message: string): void {
  const body = JSON.stringify({ code: status, message });
  response.writeHead(status, {
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(body),
    connection: 'close',
  });
  response.end(body);
}

/** What is not even HTTP, or comes too slowly. */
export function answerBrokenRequest(error: NodeJS.ErrnoException, socket: Socket): void {
  // Clients open connections ahead of their requests: one that has said nothing would take an answer for its first's.
  const isUnused = error.code === 'ERR_HTTP_REQUEST_TIMEOUT' && socket.bytesRead === 0;
  // What is said in the middle of another answer would be taken for a part of it.
  if (isUnused || error.code === 'ECONNRESET' || !socket.writable || isWaitedOn(socket)) {
    socket.destroy();
    return;
  }
  const [status, message] =
    error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
      ? [408, TOO_LATE]
      : error.code === 'HPE_HEADER_OVERFLOW'
        ? [431, 'The head of the request is too large.']
        : [400, 'This is not HTTP.'];
  socket.end(rawRefusal(status, message));
  socket.destroySoon();
}

const NOT_TLS = rawRefusal(400, 'This port speaks TLS: use https://.');

/**
 * What comes without TLS where it is spoken, if OpenSSL takes it for HTTP: GET and PUT always, other methods as its version
 * has them. To be told before whoever ends the connection: Node closes the socket below in the same turn, so that nobody
 * holds anything by this, and who is in the middle of a large body may hear of the end first.
 */
export function answerPlainHttp(error: NodeJS.ErrnoException, secure: TLSSocket): void {
  if (error.code !== 'ERR_SSL_HTTP_REQUEST') return;
  // Node gives the socket below to nobody; where it is not found the connection ends without a word.
  const socket: unknown = Reflect.get(secure, '_parent');
  if (!(socket instanceof Socket) || !socket.writable) return;
  socket.on('error', () => {});
  closeOnceWritten(socket);
  socket.end(NOT_TLS);
}

const TOO_LATE = 'The request took too long to arrive.';

/** Ends a request whose body does not come in time. One that has been answered already hears nothing more. */
export function refuseLate(request: IncomingMessage, response: ServerResponse): void {
  if (request.complete) return;
  if (response.headersSent) request.socket.destroy();
  else {
    refuse(response, 408, TOO_LATE);
    // For the answer to be on its way; the rest of the request is not waited for.
    response.once('finish', () => request.socket.destroySoon());
  }
}
