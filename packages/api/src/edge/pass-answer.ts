/** A guest's answer on its way to the client: its head, its pieces with back-pressure, and its end as it is. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerResponse } from 'node:http2';
import { isHttp2, responseHeaders } from './headers.ts';
import { takeRestPast } from './long-answer.ts';

/** False for an answer that no client can be given; nothing is sent then. */
export function passAnswer(
  answer: IncomingMessage,
  response: ServerResponse | Http2ServerResponse,
  cutClient: () => void,
): boolean {
  const plain = response as ServerResponse;
  const { statusCode = 0 } = answer;
  // A change of protocol that nobody asked for would leave the client with a connection that it reads wrongly.
  if (statusCode < 200) return false;
  try {
    plain.writeHead(statusCode, responseHeaders(answer, isHttp2(response)));
  } catch {
    for (const name of response.getHeaderNames()) response.removeHeader(name);
    return false;
  }
  if (!isHttp2(response)) gatherPieces(answer, plain);
  plain.flushHeaders?.();
  let isWhole = false;
  answer.once('end', () => {
    isWhole = true;
    if (Object.keys(answer.trailers).length > 0 && !isHttp2(response))
      plain.addTrailers(answer.trailers as never);
  });
  const cutUnlessWhole = (): void => {
    if (!isWhole) cutClient();
  };
  answer.once('error', cutUnlessWhole).once('close', cutUnlessWhole);
  answer.pipe(plain);
  if (!isHttp2(response)) {
    takeRestPast(answer, plain, () => {
      isWhole = true;
    });
  }
  return true;
}

/** More than that is on its way soon enough, and is not held. */
const PIECE_BYTES = 16 * 1024;

/**
 * What the guest has sent at once goes on at once: its head with what comes first, its last piece with the end. Each write
 * of its own would be one more time that the client is woken. It is the connection that holds it: a response of Node 22
 * and newer that is corked itself sends the end of a chunked body before what it has held. One that waits in line has no
 * connection yet, and holds everything by itself.
 */
function gatherPieces(answer: IncomingMessage, response: ServerResponse): void {
  let isHeld = false;
  const hold = (): void => {
    const client = response.socket;
    if (isHeld || client === null) return;
    isHeld = true;
    client.cork();
    setImmediate(() => {
      isHeld = false;
      client.uncork();
    });
  };
  hold();
  answer.on('data', (piece: Buffer) => {
    if (piece.length < PIECE_BYTES) hold();
  });
}

/** As it is written to a connection that is no HTTP server's any more. */
export function headOf(answer: IncomingMessage, own: Readonly<Record<string, string>>): string {
  const headers = { ...responseHeaders(answer, false), ...own };
  const lines = Object.entries(headers).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value]).map((each) => `${name}: ${each}`),
  );
  return [`HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}`, ...lines, '', ''].join('\r\n');
}
