/** Which request below /files does what, as whom, and whether it may. */
import { type EnvdContext, resolvePath } from '../context.ts';
import { createXattrs, type XattrCalls } from '../filesystem/xattrs.ts';
import { errorJson, json } from '../http/respond.ts';
import type { Libc } from '../sys/libc.ts';
import { compose, parseComposeRequest } from './compose.ts';
import { download } from './download.ts';
import { refusal, refusalResponse } from './refusal.ts';
import { upload } from './upload.ts';

/** The server: ends a connection on which nothing moves for so long. */
export interface IdleLimiter {
  timeout(request: Request, seconds: number): void;
}

export interface FilesContext extends Pick<EnvdContext, 'users' | 'settings' | 'accessToken' | 'lives'> {
  readonly libc: XattrCalls & Pick<Libc, 'statfs'>;
}

export type FilesHandler = (request: Request, connection: IdleLimiter) => Promise<Response>;

/** Nothing sent and nothing taken for this long: whoever is at the other end has gone. Bun's most is 255. */
const TRANSFER_IDLE_S = 240;
/** In a life that has begun since: nobody is there any more, unless something moves after all. */
const FORMER_LIFE_IDLE_S = 1;

/** The access token of a compose request has been looked at by the server; the others may bear a signature. */
export function createFilesHandler(context: FilesContext): FilesHandler {
  const { users, settings, accessToken, libc, lives } = context;
  const dependencies = { xattrs: createXattrs(libc), statfs: libc.statfs };

  function identify(username: string | undefined) {
    const user = users.byName(username || settings.defaultUser);
    return { user, resolve: (path: string) => resolvePath(path, user, settings.defaultWorkdir) };
  }

  function authorize(request: Request, query: URLSearchParams, operation: 'read' | 'write'): void {
    const complaint = accessToken.refuseFileAccess(request.headers, {
      path: query.get('path') ?? '',
      operation,
      username: query.get('username') ?? undefined,
      signature: query.get('signature') ?? undefined,
      signatureExpiration: query.get('signature_expiration') ?? undefined,
    });
    if (complaint !== undefined) throw refusal(401, complaint);
  }

  async function answer(request: Request, connection: IdleLimiter): Promise<Response> {
    const { pathname, searchParams: query } = new URL(request.url);
    switch (`${request.method} ${pathname}`) {
      case 'GET /files': {
        authorize(request, query, 'read');
        const { resolve } = identify(query.get('username') ?? undefined);
        return download(resolve(query.get('path') ?? ''), request, dependencies);
      }
      case 'POST /files': {
        authorize(request, query, 'write');
        const who = identify(query.get('username') ?? undefined);
        return json(await upload(request, { ...who, path: query.get('path') ?? undefined }, dependencies));
      }
      case 'POST /files/compose': {
        const wanted = await parseComposeRequest(request.body);
        // All is here, and nothing is sent before the work is done, however long it takes.
        connection.timeout(request, 0);
        const { user, resolve } = identify(wanted.username);
        const sources = wanted.sourcePaths.map(resolve);
        return json(await compose(sources, resolve(wanted.destination), user, dependencies));
      }
      default:
        return errorJson(404, `no such path: ${request.method} ${pathname}`);
    }
  }

  return async (request, connection) => {
    connection.timeout(request, TRANSFER_IDLE_S);
    const life = lives.current;
    const hurry = () => connection.timeout(request, FORMER_LIFE_IDLE_S);
    life.addEventListener('abort', hurry, { once: true });
    try {
      return await answer(request, connection);
    } catch (error) {
      // Nobody reads this answer, and a sender who leaves is nothing for the log.
      if (request.signal.aborted) return errorJson(400, 'the request was broken off');
      return refusalResponse(error);
    } finally {
      life.removeEventListener('abort', hurry);
    }
  };
}
