/** What the edge says itself, in the words that SDKs look for; people with a browser get a page. */
import type { IncomingHttpHeaders, ServerResponse } from 'node:http';
import type { Http2ServerResponse } from 'node:http2';

export interface EdgeAnswer {
  readonly status: number;
  readonly body: {
    readonly sandboxId: string;
    readonly message: string;
    readonly port?: number;
    readonly code: number;
  };
}

export const notFound = (sandboxId: string): EdgeAnswer =>
  answer(502, sandboxId, 'The sandbox was not found');
export const portClosed = (sandboxId: string, port: number): EdgeAnswer =>
  answer(502, sandboxId, 'The sandbox is running but port is not open', port);
export const lateAnswer = (sandboxId: string, port: number): EdgeAnswer =>
  answer(504, sandboxId, 'The sandbox did not take the connection in time', port);
export const needsToken = (sandboxId: string): EdgeAnswer =>
  answer(403, sandboxId, 'This sandbox is reached with the header e2b-traffic-access-token only');
export const noSuchPath = (sandboxId: string): EdgeAnswer => answer(404, sandboxId, 'There is no such path');
export const tooMany = (sandboxId: string): EdgeAnswer =>
  answer(429, sandboxId, 'This sandbox has too many connections open');
/** Whether it runs, or could, is not known at the moment, or no more may run. */
export const cannotBeWoken = (sandboxId: string, isForLimits: boolean): EdgeAnswer =>
  isForLimits
    ? answer(429, sandboxId, 'The sandbox sleeps, and no more may be woken at the moment')
    : answer(503, sandboxId, 'The sandbox cannot be reached at the moment');
export const badRequest = (sandboxId: string): EdgeAnswer =>
  answer(400, sandboxId, 'The request cannot be passed on to a sandbox');
export const badAnswer = (sandboxId: string, port: number): EdgeAnswer =>
  answer(502, sandboxId, 'The sandbox gave an answer that is no HTTP', port);
export const tooSlow = (sandboxId: string): EdgeAnswer => answer(408, sandboxId, 'The request took too long');

function answer(code: number, sandboxId: string, message: string, port?: number): EdgeAnswer {
  return { status: code, body: { sandboxId, message, ...(port === undefined ? {} : { port }), code } };
}

/** Headers and body as they are written. */
export function renderAnswer(
  { status, body }: EdgeAnswer,
  headers: IncomingHttpHeaders,
  requestId: string,
): { headers: Record<string, string | number>; text: string } {
  const asPage = /\btext\/html\b/.test(headers.accept ?? '');
  const text = asPage ? page(body.message, status) : JSON.stringify(body);
  const type = asPage ? 'text/html; charset=utf-8' : 'application/json';
  const base = {
    'Content-Type': type,
    'Content-Length': Buffer.byteLength(text),
    'Cache-Control': 'no-store',
    // The guest agent allows as much for its own: a page is told what is wrong, and not only that something is.
    'Access-Control-Allow-Origin': '*',
    'X-Request-Id': requestId,
  };
  return { headers: status === 429 || status === 503 ? { ...base, 'Retry-After': 1 } : base, text };
}

export function sendAnswer(
  response: ServerResponse | Http2ServerResponse,
  what: EdgeAnswer,
  asked: IncomingHttpHeaders,
  requestId: string,
): void {
  const { headers, text } = renderAnswer(what, asked, requestId);
  const stream = CONNECT_STREAM.exec(asked['content-type'] ?? '')?.[0];
  if (what.status === 503 && stream !== undefined) {
    const end = endOfStream(what.body.message);
    const own = { 'Content-Type': stream, 'Content-Length': end.length };
    (response as ServerResponse).writeHead(200, { ...headers, ...own });
    (response as ServerResponse).end(end);
    return;
  }
  (response as ServerResponse).writeHead(what.status, headers);
  (response as ServerResponse).end(text);
}

const CONNECT_STREAM = /^application\/connect\+(json|proto)$/;
const END_OF_STREAM = 2;
const PREFIX_BYTES = 5;

/**
 * A stream of Connect that ends with an error. Its clients make `unavailable` of the HTTP status, which SDKs take for a
 * sandbox that does not exist any more.
 */
function endOfStream(message: string): Buffer {
  const text = Buffer.from(JSON.stringify({ error: { code: 'aborted', message } }));
  const prefix = Buffer.alloc(PREFIX_BYTES);
  prefix.writeUInt8(END_OF_STREAM, 0);
  prefix.writeUInt32BE(text.length, 1);
  return Buffer.concat([prefix, text]);
}

/** `message` is one of the texts above: nothing of a request is in it. */
function page(message: string, status: number): string {
  const style = 'font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:20vh auto;padding:0 1rem';
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${status}</title><body style="${style}"><h1>${status}</h1><p>${message}.</p></body></html>\n`;
}
