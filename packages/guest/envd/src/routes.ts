/** Which path goes to which handler, and who may pass. */
import { createActivity } from './activity.ts';
import { createAccessToken } from './auth.ts';
import type { EnvdContext } from './context.ts';
import type { IdleLimiter } from './files/handler.ts';
import type { Flags } from './flags.ts';
import { envs } from './http/envs.ts';
import type { TakeDatagram } from './http/inbox.ts';
import { createInit } from './http/init.ts';
import { logs } from './http/logs.ts';
import { createMetrics } from './http/metrics.ts';
import { createQuiesce } from './http/quiesce.ts';
import { errorJson } from './http/respond.ts';
import { createShortInit } from './http/short-init.ts';
import { createIdentity } from './identity/identity.ts';
import { lazily } from './lazy.ts';
import { createLives } from './lives.ts';
import { createCredentials } from './sys/credentials.ts';
import { createLibc } from './sys/libc.ts';
import { protectFromOomKiller } from './sys/oom-score.ts';
import { createUsers } from './sys/users.ts';

export interface Routes {
  answer(request: Request, server: IdleLimiter): Promise<Response>;
  readonly takeDatagram: TakeDatagram;
  /** What is loaded with its first use; calling these is that first use. */
  readonly parts: readonly (() => Promise<unknown>)[];
}

/** These authenticate themselves, by signature or by the token in their body. */
const SELF_AUTHENTICATED = new Set(['GET /files', 'POST /files', 'POST /init']);

export function createRoutes(flags: Flags): Routes {
  const context = createContext(flags);
  const identity = flags.ownMachine ? createIdentity(context) : undefined;
  const init = createInit(context, { setClock: flags.setClock, identity });
  const shortInit = createShortInit(context.accessToken, init);
  const metrics = createMetrics(context.libc);
  const files = lazily(async () => (await import('./files/handler.ts')).createFilesHandler(context));
  const expose = lazily(async () =>
    (await import('./ports/expose.ts')).createExpose(flags.exposeHost, flags.port, context.lives),
  );
  const rpcs = lazily(async () => (await import('./rpc-routes.ts')).createAllRpcRoutes(context));
  const parts = [rpcs, files];
  const quiesce = createQuiesce({
    credentials: context.credentials,
    ownMachine: flags.ownMachine,
    loadParts: () => Promise.all(parts.map((load) => load())),
  });

  async function answer(request: Request, server: IdleLimiter): Promise<Response> {
    const failure = shortInit.settle();
    const path = new URL(request.url).pathname;
    const endpoint = `${request.method} ${path}`;
    if (!SELF_AUTHENTICATED.has(endpoint) && !context.accessToken.allows(request.headers)) {
      return errorJson(
        401,
        'unauthorized access, please provide a valid access token or method signing if supported',
      );
    }
    if (endpoint === 'POST /init') {
      const answered = await init.answer(request);
      if (answered.ok) shortInit.replaced();
      return answered;
    }
    // This machine is still its parent, and must not do anything as such.
    if (failure !== undefined) return errorJson(500, failure);
    switch (endpoint) {
      case 'POST /quiesce':
        return quiesce(request);
      case 'POST /expose':
        return (await expose())(request);
      case 'GET /envs':
        return envs(context.settings);
      case 'GET /metrics':
        return metrics();
      case 'GET /logs':
        return logs(context.activity);
    }
    if (path === '/files' || path.startsWith('/files/')) return (await files())(request, server);
    const rpc = (await rpcs()).get(path);
    return rpc === undefined ? errorJson(404, `no such path: ${path}`) : rpc(request);
  }

  return { answer, takeDatagram: shortInit.take, parts };
}

function createContext(flags: Flags): EnvdContext {
  const libc = createLibc();
  return {
    settings: { defaultUser: flags.defaultUser, defaultWorkdir: undefined, globalEnv: new Map() },
    accessToken: createAccessToken(),
    users: createUsers(),
    libc,
    credentials: createCredentials(libc, protectFromOomKiller()),
    activity: createActivity(),
    lives: createLives(),
  };
}
