/** The HTTP server: which path goes to which handler, and who may pass. */
import { Filesystem } from '@wrenn/protocol/filesystem';
import { Process } from '@wrenn/protocol/process';
import type { EnvdContext } from './context.ts';
import { createFilesHandler, type IdleLimiter } from './files/handler.ts';
import { createFilesystemService } from './filesystem/service.ts';
import { envs } from './http/envs.ts';
import { health } from './http/health.ts';
import { createInit } from './http/init.ts';
import { createMetrics } from './http/metrics.ts';
import { errorJson } from './http/respond.ts';
import { logError } from './log.ts';
import { processJson } from './process/fast-json.ts';
import { createProcessService } from './process/service.ts';
import { createRpcRoutes } from './rpc/serve.ts';

export interface ServerOptions {
  readonly host: string;
  readonly port: number;
  readonly setClock: boolean;
}

/** These authenticate themselves, by signature or by the token in their body, or tell nothing. */
const SELF_AUTHENTICATED = new Set(['GET /health', 'GET /files', 'POST /files', 'POST /init']);

export function startServer(context: EnvdContext, options: ServerOptions): { readonly port: number } {
  const init = createInit(context, options);
  const metrics = createMetrics(context.libc);
  const files = createFilesHandler(context);
  const rpcs = new Map([
    ...createRpcRoutes(Process, createProcessService(context), processJson),
    ...createRpcRoutes(Filesystem, createFilesystemService(context)),
  ]);

  async function route(request: Request, server: IdleLimiter): Promise<Response> {
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
    if (path === '/files' || path.startsWith('/files/')) return files(request, server);
    const rpc = rpcs.get(path);
    return rpc === undefined ? errorJson(404, `no such path: ${path}`) : rpc(request);
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
