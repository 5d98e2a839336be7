/**
 * The HTTP server. It answers /health itself, and acknowledges the first settings that come in a datagram; everything
 * else is in routes.ts, which is loaded with the first other request, or behind those settings; and its parts after that
 * request, which must not wait for them. A host that has asked for /health is about to send the settings, and
 * somebody waits for the sandbox: nothing is loaded in their way. No other import here may cost start-up time.
 */
import type { Flags } from './flags.ts';
import { forPages, preflight } from './http/cors.ts';
import { type Inbox, openInbox } from './http/inbox.ts';
import { errorJson, noContent } from './http/respond.ts';
import { lazily } from './lazy.ts';
import { logError } from './log.ts';

/** Before each part that is loaded ahead: a request that has come meanwhile goes first. */
const PRELOAD_PAUSE_MS = 100;
/** For a host that asks for /health and nothing else. */
const PRELOAD_AFTER_HEALTH_MS = 3_000;

export function startServer(flags: Flags): { readonly port: number } {
  let inbox: Inbox | undefined;
  const routes = lazily(async () => {
    const created = (await import('./routes.ts')).createRoutes(flags);
    inbox?.giveTo(created.takeDatagram);
    return created;
  });
  const parts = lazily(async () => {
    for (const load of (await routes()).parts) {
      await Bun.sleep(PRELOAD_PAUSE_MS);
      await load();
    }
  });
  const afterHealth = lazily(async () => {
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
          return forPages(noContent());
        },
      },
    },
    fetch: async (request, self) => {
      // Asked by browsers, which send no token with it.
      if (request.method === 'OPTIONS') return forPages(preflight(request));
      try {
        return forPages(await (await routes()).answer(request, self));
      } finally {
        later(parts);
      }
    },
    error: (error) => {
      logError('a request failed', error);
      return forPages(errorJson(500, 'internal error'));
    },
  });
  const port = server.port ?? flags.port;
  if (flags.ownMachine) inbox = openInbox(flags.host, port, () => later(parts));
  return { port };
}
