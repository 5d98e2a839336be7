/** What of a message's headers goes on to the other side. */
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';

/** RFC 9110, 7.6.1: of one connection alone. `Transfer-Encoding` is Node's business on both sides. */
const HOP_BY_HOP: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
]);
/** For the edge, and no business of the guest's. */
const OF_THE_EDGE: ReadonlySet<string> = new Set([
  'e2b-traffic-access-token',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
]);

export interface ForwardedRequest {
  /** What the guest sees, and what the client asked for. */
  readonly host: string | undefined;
  readonly askedHost: string | undefined;
  readonly clientAddress: string | undefined;
  readonly isTls: boolean;
  /** What the client wants to change to; undefined for a request as most are. */
  readonly protocol: string | undefined;
}

type Message = IncomingMessage | Http2ServerRequest | ServerResponse | Http2ServerResponse;

export function isHttp2<T extends Message>(
  message: T,
): message is T & (Http2ServerRequest | Http2ServerResponse) {
  return 'stream' in message;
}

/** In the client's order and spelling. */
export function requestHeaders(message: IncomingMessage, how: ForwardedRequest): OutgoingHttpHeaders {
  const headers = passedOn(
    message,
    (name) => name === 'host' || name.startsWith(':') || OF_THE_EDGE.has(name),
  );
  // HTTP/2 sends them one by one.
  if (Array.isArray(headers.cookie)) headers.cookie = headers.cookie.join('; ');
  if (how.protocol !== undefined) {
    for (const name of Object.keys(headers)) if (/^content-length$/i.test(name)) delete headers[name];
    Object.assign(headers, { Connection: 'Upgrade', Upgrade: how.protocol });
  } else if (hasUncountedBody(message)) {
    // Said here: Node sends the body of a GET without any framing otherwise, for the guest to read as its next request.
    headers['Transfer-Encoding'] = 'chunked';
  }
  if (how.host !== undefined) headers.Host = how.host;
  headers['X-Forwarded-Proto'] = how.isTls ? 'https' : 'http';
  if (how.askedHost !== undefined) headers['X-Forwarded-Host'] = how.askedHost;
  if (how.clientAddress !== undefined) headers['X-Forwarded-For'] = how.clientAddress;
  return headers;
}

export function responseHeaders(message: IncomingMessage, forHttp2: boolean): OutgoingHttpHeaders {
  const headers = passedOn(message, () => false);
  if (!forHttp2) return headers;
  // Node does not send HTTP/2 headers twice that may be there once: it keeps the first, as for HTTP/1 when it parses.
  for (const [name, value] of Object.entries(headers)) {
    if (Array.isArray(value)) headers[name] = message.headers[name.toLowerCase()] ?? value;
  }
  return headers;
}

/** One that ends when it ends. */
export function hasUncountedBody(message: IncomingMessage | Http2ServerRequest): boolean {
  if (message.headers['content-length'] !== undefined) return false;
  if (isHttp2(message)) return !message.stream.endAfterHeaders;
  return message.headers['transfer-encoding'] !== undefined;
}

function passedOn(message: IncomingMessage, isDropped: (name: string) => boolean): OutgoingHttpHeaders {
  const named = new Set(
    (message.headers.connection ?? '').split(',').map((name) => name.trim().toLowerCase()),
  );
  // Not theirs to take away: a body without a length would be read by the guest as its next request.
  named.delete('content-length');
  const headers: Record<string, string[]> = {};
  const spelling = new Map<string, string>();
  for (let index = 0; index + 1 < message.rawHeaders.length; index += 2) {
    const [raw = '', value = ''] = message.rawHeaders.slice(index, index + 2);
    const name = raw.toLowerCase();
    if (HOP_BY_HOP.has(name) || named.has(name) || isDropped(name)) continue;
    // A body's length is what its framing says, which only one header may.
    const key = spelling.get(name) ?? raw;
    spelling.set(name, key);
    headers[key] = [...(headers[key] ?? []), value];
  }
  return Object.fromEntries(
    Object.entries(headers).map(([name, values]) => [name, values.length === 1 ? (values[0] ?? '') : values]),
  );
}
