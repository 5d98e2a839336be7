/** One server for both: what is for a sandbox's port goes to the edge, all else to the API. */
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { ApiConfig } from './config/schema.ts';
import type { Edge } from './edge/edge.ts';
import { rawRefusal, refuse, refuseLate } from './refusals.ts';

const CHECK_INTERVAL_MS = 1000;
const NOT_HERE = rawRefusal(404, 'No protocol but HTTP is spoken here.');

export function createFront(edge: Edge, config: ApiConfig['requests'], api: RequestListener): Server {
  const server = createServer(
    {
      headersTimeout: config.headersTimeoutMs,
      keepAliveTimeout: config.keepAliveTimeoutMs,
      connectionsCheckingInterval: CHECK_INTERVAL_MS,
      // Uploads to a sandbox take as long as they take: the edge looks after them, and below the API's are looked after.
      requestTimeout: 0,
      // Node's own answer to a request without a host has no body; the one below has.
      requireHostHeader: false,
    },
    (request, response) => {
      if (request.headers.host === undefined && request.httpVersion === '1.1') {
        return refuse(response, 400, 'host: a request names the host that it is for.');
      }
      const address = edge.addressOf(request);
      if (address !== undefined) return void edge.handle(address, request, response);
      giveUpLate(request, response, config.requestTimeoutMs);
      api(request, response);
    },
  );
  server.on('checkExpectation', (_request, response) => {
    refuse(response, 417, 'expect: only 100-continue can be.');
  });
  server.on('upgrade', (request, socket, head) => {
    const address = edge.addressOf(request);
    if (address !== undefined) void edge.upgrade(address, request, socket, head);
    else socket.on('error', () => {}).end(NOT_HERE);
  });
  return server;
}

/** Ends a request to the API whose body does not come. */
function giveUpLate(request: IncomingMessage, response: ServerResponse, timeoutMs: number): void {
  const timer = setTimeout(() => refuseLate(request, response), timeoutMs);
  const stop = (): void => clearTimeout(timer);
  request.once('end', stop).once('close', stop);
}
