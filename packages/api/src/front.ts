/** One server for both: what is for a sandbox's port goes to the edge, all else to the API. */
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import type { ApiConfig } from './config/schema.ts';
import type { Edge } from './edge/edge.ts';

const CHECK_INTERVAL_MS = 1000;
const NOT_HERE = 'HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n';
const TOO_SLOW = 'HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n';

export function createFront(edge: Edge, config: ApiConfig['requests'], api: RequestListener): Server {
  const server = createServer(
    {
      headersTimeout: config.headersTimeoutMs,
      keepAliveTimeout: config.keepAliveTimeoutMs,
      connectionsCheckingInterval: CHECK_INTERVAL_MS,
      // Uploads to a sandbox take as long as they take: the edge looks after them, and below the API's are looked after.
      requestTimeout: 0,
    },
    (request, response) => {
      const address = edge.addressOf(request);
      if (address !== undefined) return void edge.handle(address, request, response);
      giveUpLate(request, config.requestTimeoutMs);
      api(request, response);
    },
  );
  server.on('upgrade', (request, socket, head) => {
    const address = edge.addressOf(request);
    if (address !== undefined) void edge.upgrade(address, request, socket, head);
    else socket.on('error', () => {}).end(NOT_HERE);
  });
  return server;
}

/** Ends a request to the API whose body does not come. */
function giveUpLate(request: IncomingMessage, timeoutMs: number): void {
  const timer = setTimeout(() => {
    request.socket.write(TOO_SLOW);
    request.socket.destroySoon();
  }, timeoutMs);
  const stop = (): void => clearTimeout(timer);
  request.once('end', stop).once('close', stop);
}
