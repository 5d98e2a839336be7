/**
 * POST /init: how the host configures this agent, after boot and after every resume.
 *
 * Whoever may send it is decided by the token in its body: the first one sets it, any later one must
 * know it, or carry it in X-Access-Token to replace it with the one in the body. A request that is
 * older than one already applied changes nothing, so that retries and delayed duplicates are harmless.
 */

import { ACCESS_TOKEN_HEADER } from '../auth.ts';
import type { EnvdContext } from '../context.ts';
import { logError } from '../log.ts';
import { variableProblem } from '../process/environment.ts';
import { ENVD_VERSION } from '../version.ts';
import { errorJson, noContent } from './respond.ts';

export interface InitOptions {
  /** Whether the timestamp also sets the machine's clock. */
  readonly setClock: boolean;
}

export interface InitRequest {
  /** A map, because any name may come, `__proto__` too. */
  readonly envVars: ReadonlyMap<string, string>;
  readonly accessToken: string | undefined;
  readonly timestampNs: bigint | undefined;
  readonly defaultUser: string | undefined;
  readonly defaultWorkdir: string | undefined;
}

const BODY_MAX_BYTES = 1024 * 1024;
const VERSION_HEADER = { 'X-Envd-Version': ENVD_VERSION };

/**
 * A clock that is behind is wrong. One that is a little ahead is mostly right, and it is the request
 * that took its time: stepping time back for that would harm more than it helps.
 */
const BEHIND_MAX_MS = 50;
const AHEAD_MAX_MS = 1000;

export function createInit(
  context: EnvdContext,
  options: InitOptions,
): (request: Request) => Promise<Response> {
  let newestNs: bigint | undefined;

  function apply(init: InitRequest): void {
    if (init.timestampNs !== undefined && options.setClock) setClock(context, init.timestampNs);
    for (const [name, value] of init.envVars) context.settings.globalEnv.set(name, value);
    if (init.accessToken !== undefined) context.accessToken.set(init.accessToken);
    if (init.defaultUser !== undefined) context.settings.defaultUser = init.defaultUser;
    if (init.defaultWorkdir !== undefined) context.settings.defaultWorkdir = init.defaultWorkdir;
  }

  return async (request) => {
    const body = await readText(request, BODY_MAX_BYTES);
    if (body === undefined) return errorJson(413, `the request is larger than ${BODY_MAX_BYTES} bytes`);
    const init = parseInit(body);
    if (typeof init === 'string') return errorJson(400, init);
    const { accessToken } = context;
    const knowsToken =
      accessToken.matches(init.accessToken) || accessToken.matches(request.headers.get(ACCESS_TOKEN_HEADER));
    if (accessToken.isSet() && !knowsToken) return errorJson(401, 'access token validation failed');
    if (init.timestampNs !== undefined) {
      if (newestNs !== undefined && init.timestampNs <= newestNs) return noContent(VERSION_HEADER);
      newestNs = init.timestampNs;
    }
    apply(init);
    return noContent(VERSION_HEADER);
  };
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
  const body = text.trim() === '' ? {} : parseObject(text);
  if (body === undefined) return 'the body is not a JSON object';
  const { envVars, timestamp } = body;
  for (const name of ['accessToken', 'timestamp', 'defaultUser', 'defaultWorkdir']) {
    const value = body[name] ?? undefined;
    if (value !== undefined && typeof value !== 'string') return `${name} is not a string`;
  }
  const timestampNs = typeof timestamp === 'string' ? parseTimestamp(timestamp) : undefined;
  if (typeof timestamp === 'string' && timestampNs === undefined) return 'timestamp is not in RFC 3339 form';
  const variables = parseEnvVars(envVars);
  if (typeof variables === 'string') return variables;
  return {
    envVars: variables,
    timestampNs,
    accessToken: nonEmpty(body.accessToken),
    defaultUser: nonEmpty(body.defaultUser),
    defaultWorkdir: nonEmpty(body.defaultWorkdir),
  };
}

function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
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

/** The body as text; undefined once it turns out to be longer than allowed. */
async function readText(request: Request, maxBytes: number): Promise<string | undefined> {
  // Of a stated length it cannot be longer. Bun reads such a body without its streams, whose code is slow to load
  // for what is the very first request of every sandbox.
  const statedBytes = Number(request.headers.get('content-length') ?? 0);
  if (statedBytes > 0 && statedBytes <= maxBytes) return request.text();
  const decoder = new TextDecoder();
  let text = '';
  let bytes = 0;
  for await (const chunk of request.body ?? []) {
    bytes += chunk.byteLength;
    if (bytes > maxBytes) return undefined;
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}
