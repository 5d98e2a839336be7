/**
 * POST /init: how the host configures this agent, after boot and after every resume.
 *
 * Whoever may send it is decided by the token in its body: the first one sets it, any later one must
 * know it, or carry it in X-Access-Token to replace it with the one in the body. A request that is
 * older than one already applied changes nothing, so that retries and delayed duplicates are harmless.
 *
 * `identity` and `replaceEnvs` are Wrenn's own: by them a clone of a snapshot stops being its parent. Other hosts do
 * not send them, and E2B's envd passes over them. What came before is no measure for a new life: a host whose clock
 * was set back since the snapshot would be told that all is well, and the clone would still be its parent.
 */

import { ENVD_VERSION } from '@wrenn/protocol';
import { ACCESS_TOKEN_HEADER } from '../auth.ts';
import type { EnvdContext } from '../context.ts';
import type { Identity } from '../identity/identity.ts';
import { type IdentityRequest, parseIdentity } from '../identity/parse-identity.ts';
import { logError } from '../log.ts';
import { variableProblem } from '../process/environment.ts';
import { parseObject, readText } from './body.ts';
import { errorJson, noContent } from './respond.ts';

export interface InitOptions {
  /** Whether the timestamp also sets the machine's clock. */
  readonly setClock: boolean;
  /** Undefined where this machine is not envd's to change. */
  readonly identity: Identity | undefined;
}

export interface InitRequest {
  /** A map, because any name may come, `__proto__` too. */
  readonly envVars: ReadonlyMap<string, string>;
  /** Whether they are all there is, or come on top of those that are set. */
  readonly replaceEnvs: boolean;
  readonly accessToken: string | undefined;
  readonly timestampNs: bigint | undefined;
  readonly defaultUser: string | undefined;
  readonly defaultWorkdir: string | undefined;
  readonly identity: IdentityRequest | undefined;
}

const BODY_MAX_BYTES = 1024 * 1024;
const VERSION_HEADER = { 'X-Envd-Version': ENVD_VERSION };

/**
 * A clock that is behind is wrong. One that is a little ahead is mostly right, and it is the request
 * that took its time: stepping time back for that would harm more than it helps.
 */
const BEHIND_MAX_MS = 50;
const AHEAD_MAX_MS = 1000;

export interface Init {
  answer(request: Request): Promise<Response>;
  /** What the body says, for one whose token is known to be right. Throws an InitRefusal; nothing was changed then. */
  apply(body: string): void;
}

export class InitRefusal extends Error {
  override readonly name = 'InitRefusal';
  constructor(
    readonly status: 400 | 500 | 501,
    message: string,
  ) {
    super(message);
  }
}

export function createInit(context: EnvdContext, options: InitOptions): Init {
  let newestNs: bigint | undefined;

  function changeSettings(init: InitRequest): void {
    if (init.timestampNs !== undefined && options.setClock) setClock(context, init.timestampNs);
    if (init.replaceEnvs) {
      // A machine begins here: what its parent did is not its own.
      context.settings.globalEnv.clear();
      context.activity.clear();
    }
    for (const [name, value] of init.envVars) context.settings.globalEnv.set(name, value);
    if (init.accessToken !== undefined) context.accessToken.set(init.accessToken);
    if (init.defaultUser !== undefined) context.settings.defaultUser = init.defaultUser;
    if (init.defaultWorkdir !== undefined) context.settings.defaultWorkdir = init.defaultWorkdir;
  }

  function apply(init: InitRequest): void {
    if (init.identity !== undefined && options.identity === undefined) {
      throw new InitRefusal(501, 'envd was started without --own-machine');
    }
    const { timestampNs } = init;
    const beginsLife = init.identity !== undefined && options.identity?.beginsLife(init.identity) === true;
    if (!beginsLife && timestampNs !== undefined && newestNs !== undefined && timestampNs <= newestNs) return;
    // Before anything else is changed or remembered: where it fails, the same request can be sent again.
    const failure = tryIdentity(options.identity, init.identity);
    if (failure !== undefined) throw new InitRefusal(500, failure);
    newestNs = timestampNs ?? newestNs;
    if (beginsLife) context.lives.begin();
    changeSettings(init);
  }

  return {
    apply: (body) => {
      const init = parseInit(body);
      if (typeof init === 'string') throw new InitRefusal(400, init);
      apply(init);
    },
    answer: async (request) => {
      const body = await readText(request, BODY_MAX_BYTES);
      if (body === undefined) return errorJson(413, `the request is larger than ${BODY_MAX_BYTES} bytes`);
      const init = parseInit(body);
      if (typeof init === 'string') return errorJson(400, init);
      const { accessToken } = context;
      const knowsToken =
        accessToken.matches(init.accessToken) ||
        accessToken.matches(request.headers.get(ACCESS_TOKEN_HEADER));
      if (accessToken.isSet() && !knowsToken) return errorJson(401, 'access token validation failed');
      try {
        apply(init);
        return noContent(VERSION_HEADER);
      } catch (error) {
        if (error instanceof InitRefusal) return errorJson(error.status, error.message);
        throw error;
      }
    },
  };
}

/** Why the identity could not be applied; undefined if it was, or if there was none. */
function tryIdentity(
  identity: Identity | undefined,
  request: IdentityRequest | undefined,
): string | undefined {
  if (request === undefined) return undefined;
  try {
    identity?.apply(request);
    return undefined;
  } catch (error) {
    logError('the identity was not applied', error);
    return `the identity was not applied: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** Steps the clock if it is off by more than it may be. */
function setClock(context: EnvdContext, timestampNs: bigint): void {
  const hostMs = Number(timestampNs / 1_000_000n);
  const aheadMs = Date.now() - hostMs;
  if (aheadMs >= -BEHIND_MAX_MS && aheadMs <= AHEAD_MAX_MS) return;
  try {
    context.libc.setRealTimeClock(hostMs);
  } catch (error) {
    logError('the clock cannot be set', error);
  }
}

/** The request, or why it is none. Fields that are not known here are other hosts' business. */
export function parseInit(text: string): InitRequest | string {
  const body = parseObject(text);
  if (body === undefined) return 'the body is not a JSON object';
  const { envVars, timestamp } = body;
  const replaceEnvs = body.replaceEnvs ?? false;
  if (typeof replaceEnvs !== 'boolean') return 'replaceEnvs is not a boolean';
  for (const name of ['accessToken', 'timestamp', 'defaultUser', 'defaultWorkdir']) {
    const value = body[name] ?? undefined;
    if (value !== undefined && typeof value !== 'string') return `${name} is not a string`;
  }
  const timestampNs = typeof timestamp === 'string' ? parseTimestamp(timestamp) : undefined;
  if (typeof timestamp === 'string' && timestampNs === undefined) return 'timestamp is not in RFC 3339 form';
  const variables = parseEnvVars(envVars);
  if (typeof variables === 'string') return variables;
  const identity = (body.identity ?? undefined) === undefined ? undefined : parseIdentity(body.identity);
  if (typeof identity === 'string') return identity;
  return {
    envVars: variables,
    replaceEnvs,
    timestampNs,
    accessToken: nonEmpty(body.accessToken),
    defaultUser: nonEmpty(body.defaultUser),
    defaultWorkdir: nonEmpty(body.defaultWorkdir),
    identity,
  };
}

function parseEnvVars(value: unknown): ReadonlyMap<string, string> | string {
  const variables = new Map<string, string>();
  if (value === undefined || value === null) return variables;
  if (typeof value !== 'object' || Array.isArray(value)) return 'envVars is not an object';
  for (const [name, text] of Object.entries(value)) {
    if (typeof text !== 'string') return `envVars.${name} is not a string`;
    const problem = variableProblem(name, text);
    if (problem !== undefined) return problem;
    variables.set(name, text);
  }
  return variables;
}

const RFC3339 = /^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)$/;

/** Nanoseconds since 1970; undefined for what is no RFC 3339 time. */
export function parseTimestamp(text: string): bigint | undefined {
  const [, date, time, fraction = '', zone] = RFC3339.exec(text) ?? [];
  if (date === undefined || zone === undefined) return undefined;
  const wholeMs = Date.parse(`${date}T${time}${zone.toUpperCase()}`);
  if (Number.isNaN(wholeMs)) return undefined;
  return BigInt(wholeMs) * 1_000_000n + BigInt(fraction.padEnd(9, '0'));
}

function nonEmpty(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}
