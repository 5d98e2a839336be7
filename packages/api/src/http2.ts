/** HTTP/2 on a TLS server that speaks HTTP/1.1 by itself: connections whose client has chosen it, bounded. */
import {
  createServer,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type ServerHttp2Session,
} from 'node:http2';
import type { Server } from 'node:https';
import type { TLSSocket } from 'node:tls';

export type Http2Listener = (request: Http2ServerRequest, response: Http2ServerResponse) => void;

/** Of one connection. What floods it with resets, pings or settings is ended by nghttp2 and Node. */
const SETTINGS = {
  enablePush: false,
  maxConcurrentStreams: 256,
  /** As Node allows for HTTP/1.1. */
  maxHeaderListSize: 16 * 1024,
  /** What may be under way to a reader that is slow, for each stream. */
  initialWindowSize: 256 * 1024,
} as const;
const CONNECTION_WINDOW_BYTES = 4 * 1024 * 1024;
const MAX_HEADERS = 200;
const MAX_SESSION_MEMORY_MIB = 16;
/** For a client to take the end of its connection, and to end its own side. */
const CLOSE_MS = 2_000;

export function serveHttp2(
  server: Server,
  { idleMs }: { readonly idleMs: number },
  listener: Http2Listener,
): { drain(): void } {
  const sessions = new Set<ServerHttp2Session>();
  const http2 = createServer({
    settings: SETTINGS,
    maxHeaderListPairs: MAX_HEADERS,
    maxSessionMemory: MAX_SESSION_MEMORY_MIB,
  });
  /** That whose session begins: what a session gives of it cannot be destroyed. */
  let beginning: TLSSocket | undefined;
  http2.on('session', (session) => {
    const socket = beginning;
    const close = (): void => {
      session.close();
      const timer = setTimeout(() => socket?.destroy(), CLOSE_MS);
      socket?.once('close', () => clearTimeout(timer));
    };
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
    // What a client does wrong ends its connection, and is no concern of the others.
    session.on('error', () => session.destroy());
    session.setLocalWindowSize(CONNECTION_WINDOW_BYTES);
    let streams = 0;
    session.on('stream', (stream) => {
      streams += 1;
      stream.once('close', () => {
        streams -= 1;
        // The time may be over already, and begins anew with what is read or written alone.
        if (streams === 0 && !session.destroyed) session.setTimeout(idleMs);
      });
    });
    session.setTimeout(idleMs);
    // Silence is an answer that takes its time, where there is a request. A callback of `setTimeout` would be called but once.
    session.on('timeout', () => {
      if (streams === 0) close();
    });
  });
  http2.on('request', (request, response) => {
    if (request.method === 'CONNECT') response.writeHead(405).end();
    else listener(request, response);
  });

  // The listener that `https` has put there serves HTTP/1.1 on a connection.
  const serveHttp1 = server.listeners('secureConnection');
  server.removeAllListeners('secureConnection');
  server.on('secureConnection', (socket: TLSSocket) => {
    if (socket.alpnProtocol === 'h2') {
      beginning = socket;
      http2.emit('connection', socket);
      beginning = undefined;
    } else for (const serve of serveHttp1) Reflect.apply(serve, server, [socket]);
  });
  return {
    drain: () => {
      for (const session of sessions) session.close();
    },
  };
}
