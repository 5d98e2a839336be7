/**
 * Plain HTTP, by the `Host` of each request: a connection may carry several, for different hosts, and each is judged
 * and sent on by itself, over a connection of its own. Node takes messages apart and writes them anew, so that no
 * server sees a request that was not judged here.
 */
import http from 'node:http';
import type net from 'node:net';
import { pipeline } from 'node:stream';
import { HIGH_WATER_MARK_BYTES } from './guest-stream.ts';
import { endToEnd, needsLength, targetOf, valuesOf } from './http-target.ts';
import { join, type Passage } from './passage.ts';

const PORT = 80;
const KEEP_ALIVE_MS = 30_000;
const CHECK_MS = 1000;

/** Not listening yet. */
export function createHttpServer(passage: Passage): http.Server {
  const { headMs, maxHeadBytes } = passage.limits;
  const server = http.createServer({
    highWaterMark: HIGH_WATER_MARK_BYTES,
    headersTimeout: headMs,
    // A body may take its time, as long as it moves.
    requestTimeout: 0,
    keepAliveTimeout: KEEP_ALIVE_MS,
    connectionsCheckingInterval: CHECK_MS,
    maxHeaderSize: maxHeadBytes,
    insecureHTTPParser: false,
    requireHostHeader: false,
  });
  // Node's own listener takes any stream, and gets one that is read in the sandbox's share.
  const [listener] = server.listeners('connection');
  server.removeAllListeners('connection');
  server.on('connection', (socket: net.Socket) => {
    const guest = passage.admit(socket);
    // One for each request that was sent ahead; passage.begin() is their bound.
    guest?.setMaxListeners(0);
    if (guest !== undefined) listener?.call(server, guest);
  });
  // `maxHeadBytes` is the bound. By number Node would leave headers out and still obey them: a body whose length is
  // not told to the server is the next request there, which nobody has judged.
  server.maxHeadersCount = 0;
  /** Of each connection, how many requests are not answered yet. */
  const unanswered = new WeakMap<net.Socket, number>();
  const count = (guest: net.Socket, change: 1 | -1): void =>
    void unanswered.set(guest, (unanswered.get(guest) ?? 0) + change);
  const counted = ({ socket }: http.IncomingMessage, response: http.ServerResponse): void => {
    count(socket, 1);
    response.once('close', () => count(socket, -1));
  };
  const serve = (request: http.IncomingMessage, response: http.ServerResponse): void => {
    counted(request, response);
    begin(request, response, passage, { mayUpgrade: false });
  };
  server.on('request', serve);
  server.on('checkContinue', (request, response) => {
    response.writeContinue();
    serve(request, response);
  });
  // Node's own answer would be one that nobody has counted.
  server.on('checkExpectation', (request, response) => {
    counted(request, response);
    refuse(response, 417, 'There is no such expectation.');
  });
  server.on('upgrade', (request, guest: net.Socket, ahead: Buffer) => {
    // Sent ahead of answers that still have their turn; nobody who is well does that.
    if ((unanswered.get(guest) ?? 0) > 0) return void guest.resetAndDestroy();
    const response = new http.ServerResponse(request);
    response.assignSocket(guest);
    response.shouldKeepAlive = false;
    response.once('finish', () => guest.end());
    guest.on('error', () => {});
    // What came with it is a body that Node has not taken for one, or said too early.
    if (ahead.length > 0 || valuesOf(request.rawHeaders, 'transfer-encoding').length > 0) {
      refuse(response, 400, 'A request that asks for another protocol must be without a body.');
      return;
    }
    begin(request, response, passage, { mayUpgrade: true });
  });
  server.on('clientError', (_error, guest) => {
    if (guest.writable) guest.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n');
    else guest.destroy();
  });
  return server;
}

interface How {
  /** Node reads the connection as HTTP no more. */
  readonly mayUpgrade: boolean;
}

/** Whatever goes wrong with one request is the end of its connection, and of no other. */
function begin(
  request: http.IncomingMessage,
  response: http.ServerResponse,
  passage: Passage,
  how: How,
): void {
  exchange(request, response, passage, how).catch(() => request.socket.resetAndDestroy());
}

async function exchange(
  request: http.IncomingMessage,
  response: http.ServerResponse,
  passage: Passage,
  how: How,
): Promise<void> {
  request.on('error', () => {});
  response.on('error', () => {});
  response.sendDate = false;
  const target = targetOf(request);
  if ('refused' in target) return refuse(response, 400, target.refused);
  const { name } = target;
  if (!passage.allows(name)) return refuse(response, 403, `This sandbox may not reach ${name}.`);
  const guest = request.socket;
  const begun = passage.begin(name, () => guest.resetAndDestroy());
  if (begun === undefined) return refuse(response, 503, 'This sandbox has too many requests under way.');
  const server = await passage.share.run(() => passage.reach(name, PORT));
  // Only here: the host was looked for until now, whether or not the guest waited for it.
  if (guest.destroyed || response.destroyed || !passage.allows(name)) {
    begun();
    if (typeof server !== 'string') server.destroy();
    guest.resetAndDestroy();
    return;
  }
  // A response whose turn has not come is told nothing of its socket's end.
  const done = (): void => {
    begun();
    guest.off('close', done);
  };
  guest.once('close', done);
  response.once('close', done);
  if (typeof server === 'string') {
    if (server === 'denied')
      return refuse(response, 403, `${name} is in a network that sandboxes do not reach.`);
    const why = server === 'unknown' ? 'has no address' : 'does not answer';
    return refuse(response, 502, `${name} ${why}.`);
  }
  try {
    passage.share.run(() => sendOn(request, response, server, passage, how, done));
  } catch (error) {
    server.destroy();
    throw error;
  }
}

function sendOn(
  request: http.IncomingMessage,
  response: http.ServerResponse,
  server: net.Socket,
  passage: Passage,
  { mayUpgrade }: How,
  done: () => void,
): void {
  const { method, url, rawHeaders, socket: guest } = request;
  const isWebsocket =
    mayUpgrade &&
    request.headers.upgrade?.toLowerCase() === 'websocket' &&
    request.headers['content-length'] === undefined;
  const out = http.request({
    createConnection: () => server,
    method,
    path: url,
    headers: [
      ...endToEnd(rawHeaders, 'expect'),
      ...(needsLength(request) ? ['Content-Length', '0'] : []),
      ...(isWebsocket ? ['Connection', 'Upgrade', 'Upgrade', 'websocket'] : ['Connection', 'close']),
    ],
  });
  const fail = (): void => {
    out.destroy();
    if (response.headersSent) guest.resetAndDestroy();
    else refuse(response, 502, 'The server broke off.');
  };
  out.once('error', fail);
  out.setTimeout(passage.limits.idleMs, fail);
  const stop = (): void => void out.destroy();
  guest.once('close', stop);
  out.once('close', () => guest.off('close', stop));
  response.once('close', () => response.writableFinished || stop());
  out.once('response', (answer) => {
    try {
      const { statusCode = 502, statusMessage } = answer;
      response.writeHead(statusCode, statusMessage, endToEnd(answer.rawHeaders, 'transfer-encoding'));
    } catch {
      // A line that Node takes and would not write.
      fail();
      return;
    }
    pipeline(answer, passage.receiver(), response, (error) => {
      out.destroy();
      if (error != null) guest.resetAndDestroy();
    });
  });
  out.once('upgrade', (answer, _socket, ahead: Buffer) => {
    if (!isWebsocket) return fail();
    guest.off('close', stop);
    response.detachSocket(guest);
    guest.write(headText(answer));
    if (ahead.length > 0) server.unshift(ahead);
    join(guest, server, passage, done);
  });
  passage.send(request, out);
}

function headText({ statusMessage, rawHeaders }: http.IncomingMessage): string {
  const lines = endToEnd(rawHeaders).flatMap((name, at, all) =>
    at % 2 === 0 ? [`${name}: ${all[at + 1]}`] : [],
  );
  const head = [`HTTP/1.1 101 ${statusMessage}`, ...lines, 'Connection: Upgrade', 'Upgrade: websocket'];
  return `${head.join('\r\n')}\r\n\r\n`;
}

/**
 * In one line that tells a person what it was. The connection goes on, as each request is judged, but for one that
 * could be read in several ways: to close it with more under way would take the answer from the guest.
 */
function refuse(response: http.ServerResponse, status: number, why: string): void {
  if (response.headersSent || response.destroyed) return;
  // What is left of it, so that the next one is found.
  response.req.resume();
  const body = `${why}\n`;
  // With the reason: Node would say one that it has refused to write just now, and refuse it again.
  response.writeHead(status, http.STATUS_CODES[status], {
    'content-type': 'text/plain',
    'content-length': Buffer.byteLength(body),
    ...(status === 400 ? { connection: 'close' } : {}),
    'x-wrenn-egress': 'refused',
  });
  response.end(body);
}
