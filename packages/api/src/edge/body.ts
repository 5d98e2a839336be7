/** The body of a request: on to the guest, for as long as it comes. */
import type { ClientRequest, IncomingMessage } from 'node:http';
import { constants, type Http2ServerRequest } from 'node:http2';
import { isHttp2 } from './headers.ts';

type Request = IncomingMessage | Http2ServerRequest;

/** With back-pressure, and no longer than the client keeps on sending. */
export function passBody(
  request: Request,
  outgoing: ClientRequest,
  idleMs: number,
  onIdle: () => void,
): void {
  const timer = setTimeout(() => {
    outgoing.destroy();
    onIdle();
  }, idleMs);
  const stop = (): void => clearTimeout(timer);
  request.on('data', () => timer.refresh());
  request.once('end', stop).once('close', stop);
  outgoing.once('close', stop);
  request.once('aborted', () => outgoing.destroy());
  request.once('error', () => outgoing.destroy());
  request.pipe(outgoing, { end: false });
  // With what is here of the body, where there is some: the guest may answer before the rest comes.
  setImmediate(() => {
    if (!request.readableEnded && !outgoing.headersSent && !outgoing.destroyed) outgoing.flushHeaders();
  });
  request.once('end', () => {
    if (isHttp2(request)) setImmediate(endUnlessAborted, request, outgoing);
    else outgoing.end();
  });
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
