/**
 * When nobody waits for a response any more. Node tells of that by the response's `close`, but not for those that wait
 * in line behind another on a connection that breaks: for them it is the connection that tells.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import type { Socket } from 'node:net';

/** One listener for each connection, however many requests are in line. */
const waiting = new WeakMap<Socket, Set<() => void>>();

/** Calls back once: the response is done, or its client gone, which it may be already. */
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
  // A response of HTTP/2 does not tell of the end of a HEAD that is not answered yet; its stream does.
  const source = 'stream' in response ? response.stream : response;
  source.once('close', tell);
  if (source.destroyed || (line !== undefined && request.socket.destroyed)) queueMicrotask(tell);
}

/** Whether a request on it is not answered yet: nothing else may be said on it. */
export function isWaitedOn(socket: Socket): boolean {
  return (waiting.get(socket)?.size ?? 0) > 0;
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
