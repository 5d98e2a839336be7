/** What every handler is given: the settings that /init changes, who asks, and where a path leads. */
import { normalize } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import type { Activity } from './activity.ts';
import type { AccessToken } from './auth.ts';
import type { Lives } from './lives.ts';
import type { Credentials } from './sys/credentials.ts';
import type { Libc } from './sys/libc.ts';
import type { User, Users } from './sys/users.ts';

/** Changed by POST /init alone. */
export interface Settings {
  defaultUser: string;
  /** Where an empty path leads; the user's home where unset. */
  defaultWorkdir: string | undefined;
  /** Under every process's own environment. */
  readonly globalEnv: Map<string, string>;
}

export interface EnvdContext {
  readonly settings: Settings;
  readonly accessToken: AccessToken;
  readonly users: Users;
  readonly libc: Libc;
  readonly credentials: Credentials;
  readonly activity: Activity;
  readonly lives: Lives;
}

/**
 * The user a request acts as: that of `Authorization: Basic base64("name:")`, else the default one.
 * Throws `unauthenticated` for a header that cannot be read and for an unknown name.
 */
export function requestUser(context: EnvdContext, headers: Headers): User {
  return context.users.byName(basicUserName(headers.get('Authorization')) ?? context.settings.defaultUser);
}

/** Undefined where no user is named: no header, another scheme, or an empty name. */
export function basicUserName(authorization: string | null): string | undefined {
  const encoded = /^Basic +(\S+)\s*$/i.exec(authorization ?? '')?.[1];
  if (encoded === undefined) return undefined;
  const decoded = Buffer.from(encoded, 'base64').toString('utf8');
  const colon = decoded.indexOf(':');
  const name = colon === -1 ? decoded : decoded.slice(0, colon);
  return name === '' ? undefined : name;
}

/**
 * The absolute, normalised path that a request means: `~` is the user's home, an empty path the
 * default working directory, a relative one joins the home. Throws `invalid_argument`.
 */
export function resolvePath(path: string, user: User, defaultWorkdir: string | undefined): string {
  const given = path === '' ? (defaultWorkdir ?? '') : path;
  if (given.includes('\0')) throw new ConnectError('path contains a NUL byte', Code.InvalidArgument);
  const expanded = expandHome(given, user);
  const absolute = expanded.startsWith('/') ? expanded : `${user.home}/${expanded}`;
  const normalised = normalize(absolute);
  return normalised.length > 1 && normalised.endsWith('/') ? normalised.slice(0, -1) : normalised;
}

function expandHome(path: string, user: User): string {
  if (path === '~') return user.home;
  if (path.startsWith('~/')) return `${user.home}/${path.slice(2)}`;
  if (path.startsWith('~')) {
    throw new ConnectError(
      `cannot expand the home directory of another user: '${path}'`,
      Code.InvalidArgument,
    );
  }
  return path;
}
