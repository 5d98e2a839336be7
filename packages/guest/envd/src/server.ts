/** The HTTP server: which path goes to which handler, and who may pass. */
import { ConnectError, createConnectRouter, type Interceptor } from '@connectrpc/connect';
import type { UniversalHandler } from '@connectrpc/connect/protocol';
import { Filesystem } from '@wrenn/protocol/filesystem';
import { Process } from '@wrenn/protocol/process';
import type { EnvdContext } from './context.ts';
import { createFilesHandler } from './files/handler.ts';
import { createFilesystemService } from './filesystem/service.ts';
import { envs } from './http/envs.ts';
import { health } from './http/health.ts';
import { createInit } from './http/init.ts';
import { createMetrics } from './http/metrics.ts';
import { errorJson } from './http/respond.ts';
import { serveRpc } from './http/rpc.ts';
import { logError } from './log.ts';
import { createProcessService } from './process/service.ts';

export interface ServerOptions {
  readonly host: string;
  readonly port: number;
  readonly setClock: boolean;
}

/** The most that one message may hold: a unary request, or one message of a stream. */
const MESSAGE_MAX_BYTES = 32 * 1024 * 1024;

/** These authenticate themselves, by signature or by the token in their body, or tell nothing. */
const SELF_AUTHENTICATED = new Set(['GET /health', 'GET /files', 'POST /files', 'POST /init']);

export function startServer(context: EnvdContext, options: ServerOptions): { readonly port: number } {
  const init = createInit(context, options);
  const metrics = createMetrics(context.libc);
  const files = createFilesHandler(context);
  const rpcs = rpcHandlers(context);

  async function route(request: Request): Promise<Response> {
    const path = new URL(request.url).pathname;
    const endpoint = `${request.method} ${path}`;
    if (!SELF_AUTHENTICATED.has(endpoint) && !context.accessToken.allows(request.headers)) {
      return errorJson(
        401,
        'unauthorized access, please provide a valid access token or method signing if supported',
      );
    }
    switch (endpoint) {
      case 'GET /health':
        return health();
      case 'POST /init':
        return init(request);
      case 'GET /envs':
        return envs(context.settings);
      case 'GET /metrics':
        return metrics();
    }
    if (path === '/files' || path.startsWith('/files/')) return files(request);
    const rpc = rpcs.get(path);
    return rpc === undefined ? errorJson(404, `no such path: ${path}`) : serveRpc(rpc, request);
  }

  const server = Bun.serve({
    hostname: options.host,
    port: options.port,
    // Streams may be silent for as long as their process is.
    idleTimeout: 0,
    // Uploads and input streams are as long as they are; whoever reads a body bounds what is kept of it.
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    fetch: route,
    error: (error) => {
      logError('a request failed', error);
      return errorJson(500, 'internal error');
    },
  });
  return { port: server.port ?? options.port };
}

/** Callers are told `internal error` and no more; what it was is for the log. */
const logInternalErrors: Interceptor = (next) => async (request) => {
  try {
    return await next(request);
  } catch (error) {
    if (!(error instanceof ConnectError)) logError(`${request.method.name} failed`, error);
    throw error;
  }
};

function rpcHandlers(context: EnvdContext): ReadonlyMap<string, UniversalHandler> {
  const router = createConnectRouter({
    grpc: false,
    grpcWeb: false,
    readMaxBytes: MESSAGE_MAX_BYTES,
    interceptors: [logInternalErrors],
  });
  router.service(Process, createProcessService(context));
  router.service(Filesystem, createFilesystemService(context));
  return new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
}
