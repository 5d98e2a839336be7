/**
 * One server for both: what is for a sandbox's port goes to the edge, all else to the API. With a certificate it
 * speaks HTTP/2 and HTTP/1.1, each as the client wishes; websockets come by the latter.
 */
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http';
import { constants, type Http2ServerRequest } from 'node:http2';
import { createServer as createSecureServer } from 'node:https';
import type { Socket } from 'node:net';
import { type ClientConnections, limitClientConnections } from './client-connections.ts';
import type { ApiConfig } from './config/schema.ts';
import type { Edge } from './edge/edge.ts';
import { isHttp2 } from './edge/headers.ts';
import { serveHttp2 } from './http2.ts';
import { answerPlainHttp, closeOnceWritten, rawRefusal, refuse, refuseLate } from './refusals.ts';
import type { Certificates } from './tls/certificates.ts';

const CHECK_INTERVAL_MS = 1000;
const NOT_HERE = rawRefusal(404, 'No protocol but HTTP is spoken here.');

export interface Front {
  /** Called once, by whoever serves the API. */
  serve(api: RequestListener): Server;
  /** Tells clients to send no more on their connections. */
  drain(): void;
  /** Ends connections, whatever they are at. */
  cut(): void;
  /** Connections that were one too many for their address. */
  refused(): number;
}

export interface FrontOptions {
  readonly edge: Edge;
  readonly config: ApiConfig['requests'];
  /** Undefined without TLS. */
  readonly certificates: Certificates | undefined;
}

export function createFront({ edge, config, certificates }: FrontOptions): Front {
  const sockets = new Set<Socket>();
  let drainHttp2: (() => void) | undefined;
  let clients: ClientConnections | undefined;
  const limits = {
    headersTimeout: config.headersTimeoutMs,
    keepAliveTimeout: config.keepAliveTimeoutMs,
    connectionsCheckingInterval: CHECK_INTERVAL_MS,
    // Uploads to a sandbox take as long as they take: the edge looks after them, and below the API's are looked after.
    requestTimeout: 0,
    // Node's own answer to a request without a host has no body; the one below has.
    requireHostHeader: false,
  };

  const serve = (api: RequestListener): Server => {
    const listener: RequestListener = (request, response) => {
      if (request.headers.host === undefined && request.httpVersion === '1.1') {
        return refuse(response, 400, 'host: a request names the host that it is for.');
      }
      const address = edge.addressOf(request);
      if (address !== undefined) return void edge.handle(address, request, response);
      giveUpLate(request, response, config.requestTimeoutMs);
      api(request, response);
    };
    const server =
      certificates === undefined
        ? createServer(limits, listener)
        : createSecureServer(
            {
              ...limits,
              ...certificates.current,
              ALPNProtocols: ['h2', 'http/1.1'],
              handshakeTimeout: config.headersTimeoutMs,
              minVersion: 'TLSv1.2',
            },
            listener,
          );
    server.on('checkExpectation', (_request, response) => {
      refuse(response, 417, 'expect: only 100-continue can be.');
    });
    server.on('upgrade', (request, socket, head) => {
      const address = edge.addressOf(request);
      if (address !== undefined) void edge.upgrade(address, request, socket, head);
      else {
        closeOnceWritten(socket.on('error', () => {}));
        socket.end(NOT_HERE);
      }
    });
    // Those that have not said yet what they speak are among these.
    server.on('connection', (socket: Socket) => {
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
    });
    if (certificates !== undefined && 'setSecureContext' in server) {
      // Connections that are there keep the one they began with.
      certificates.onChange((pair) => server.setSecureContext(pair));
      server.prependListener('tlsClientError', answerPlainHttp);
      const http2 = serveHttp2(server, { idleMs: config.keepAliveTimeoutMs }, (request, response) =>
        listener(request as never, response as never),
      );
      drainHttp2 = http2.drain;
    }
    const { maxConnectionsPerAddress: perAddress } = config;
    clients = limitClientConnections(server, { perAddress, isTls: certificates !== undefined });
    return server;
  };

  return {
    serve,
    drain: () => drainHttp2?.(),
    cut: () => {
      for (const socket of sockets) socket.destroy();
    },
    refused: () => clients?.refused() ?? 0,
  };
}

/** Ends a request to the API whose body does not come. */
function giveUpLate(
  request: IncomingMessage | Http2ServerRequest,
  response: ServerResponse,
  timeoutMs: number,
): void {
  const timer = setTimeout(() => {
    // It is there, but nobody has asked for it: the answer is what takes its time.
    if (request.complete || (isHttp2(request) && request.stream.endAfterHeaders)) return;
    if (isHttp2(request)) request.stream.close(constants.NGHTTP2_CANCEL);
    else refuseLate(request, response);
  }, timeoutMs);
  const stop = (): void => clearTimeout(timer);
  request.once('end', stop).once('close', stop);
}
