/**
 * When nobody waits for a response any more. Node tells of that by the response's `close`, but not for those that wait
 * in line behind another on a connection that breaks: for them it is the connection that tells.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import type { Socket } from 'node:net';

/** One listener for each connection, however many requests are in line. */
const waiting = new WeakMap<Socket, Set<() => void>>();

/** Calls back once: the response is done, or its client gone. */
export function whenOver(
  request: IncomingMessage | Http2ServerRequest,
  response: ServerResponse | Http2ServerResponse,
  listener: () => void,
): void {
  const line = 'stream' in response ? undefined : lineOf(request.socket);
  let told = false;
  const tell = (): void => {
    if (told) return;
    told = true;
    line?.delete(tell);
    listener();
  };
  line?.add(tell);
  response.once('close', tell);
}

function lineOf(socket: Socket): Set<() => void> {
  const known = waiting.get(socket);
  if (known !== undefined) return known;
  const line = new Set<() => void>();
  waiting.set(socket, line);
  socket.once('close', () => {
    for (const tell of [...line]) tell();
  });
  return line;
}
