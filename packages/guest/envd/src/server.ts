/**
 * The HTTP server. It answers /health itself; everything else is in routes.ts, which is loaded with the first other
 * request, or right after the first /health; and its parts after that request, which must not wait for them: it is
 * the host's /init, and somebody waits for the sandbox. No other import here may cost start-up time.
 */
import type { Flags } from './flags.ts';
import { errorJson, noContent } from './http/respond.ts';
import { lazily } from './lazy.ts';
import { logError } from './log.ts';

/** Before each part that is loaded ahead: a request that has come meanwhile goes first. */
const PRELOAD_PAUSE_MS = 100;
/** For a host that asks for /health and nothing else. */
const PRELOAD_AFTER_HEALTH_MS = 3_000;

export function startServer(flags: Flags): { readonly port: number } {
  const routes = lazily(async () =>
    (await import('./routes.ts')).createRoutes(flags, server.port ?? flags.port),
  );
  const parts = lazily(async () => {
    for (const load of (await routes()).parts) {
      await Bun.sleep(PRELOAD_PAUSE_MS);
      await load();
    }
  });
  const afterHealth = lazily(async () => {
    await routes();
    await Bun.sleep(PRELOAD_AFTER_HEALTH_MS);
    await parts();
  });
  const later = (work: () => Promise<unknown>) => {
    setTimeout(() => work().catch((error) => logError('loading ahead failed', error)), 0);
  };

  const server: Bun.Server<undefined> = Bun.serve({
    hostname: flags.host,
    port: flags.port,
    // Streams may be silent for as long as their process is.
    idleTimeout: 0,
    // Uploads and input streams are as long as they are; whoever reads a body bounds what is kept of it.
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    routes: {
      '/health': {
        GET: () => {
          later(afterHealth);
          return noContent();
        },
      },
    },
    fetch: async (request, self) => {
      try {
        return await (await routes()).answer(request, self);
      } finally {
        later(parts);
      }
    },
    error: (error) => {
      logError('a request failed', error);
      return errorJson(500, 'internal error');
    },
  });
  return { port: server.port ?? flags.port };
}
