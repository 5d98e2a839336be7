/** The body of a request: on to the guest, for as long as it comes. */
import type { ClientRequest, IncomingMessage } from 'node:http';
import { constants, type Http2ServerRequest } from 'node:http2';
import { isHttp2 } from './headers.ts';

/** The guest is told of a request without its body after so long, and may answer then. */
const HEAD_ALONE_MS = 10;

type Request = IncomingMessage | Http2ServerRequest;

/** With back-pressure, and no longer than the client keeps on sending. */
export function passBody(
  request: Request,
  outgoing: ClientRequest,
  idleMs: number,
  onIdle: () => void,
): void {
  // An earlier try has had all of it: there was no body, or there would be no other try.
  if (request.readableEnded) {
    outgoing.end();
    return;
  }
  const timer = setTimeout(() => {
    outgoing.destroy();
    onIdle();
  }, idleMs);
  const stop = (): void => clearTimeout(timer);
  request.on('data', () => timer.refresh());
  request.once('end', stop).once('close', stop);
  // Nobody takes what is left of it then: a client that sends all of it before it hears the end of its answer goes on.
  outgoing.once('close', () => {
    stop();
    request.unpipe(outgoing);
    request.resume();
  });
  request.once('aborted', () => outgoing.destroy());
  request.once('error', () => outgoing.destroy());
  request.pipe(outgoing, { end: false });
  request.once('end', () => {
    if (isHttp2(request)) setImmediate(endUnlessAborted, request, outgoing);
    else outgoing.end();
  });
  if (request.complete) return;
  // Node sends it with the first piece of the body: one packet for the guest, where they come together.
  setTimeout(() => {
    if (!request.readableEnded && !outgoing.headersSent && !outgoing.destroyed) outgoing.flushHeaders();
  }, HEAD_ALONE_MS);
}

/** Node looks after no connection whose request is incomplete: a byte now and then would hold it for ever. */
export function endRest(request: Request, timeoutMs: number): void {
  if (request.complete) return;
  request.unpipe?.();
  request.resume();
  const timer = setTimeout(() => {
    if (isHttp2(request)) request.stream.close(constants.NGHTTP2_CANCEL);
    else request.socket.destroy();
  }, timeoutMs);
  const stop = (): void => clearTimeout(timer);
  request.once('end', stop).once('close', stop);
}

/** Node's own clients of HTTP/2 give a request up by ending its body, and say a frame later that they have. */
function endUnlessAborted(request: Request, outgoing: ClientRequest): void {
  if (request.aborted) outgoing.destroy();
  else outgoing.end();
}
