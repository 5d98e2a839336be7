/** Keys to callers. A key is in X-API-Key or, as the CLI has it, a bearer token. */
import { WrennError } from '@wrenn/protocol';
import type { ApiConfig, KeyLimits } from '../config/schema.ts';
import type { Logger } from '../log.ts';
import type { Caller } from '../sandboxes/caller.ts';
import { limitsOf, retryable } from '../sandboxes/limits.ts';
import type { ApiKey, KeyStore } from '../store/keys.ts';
import { createWrongKeys } from './wrong-keys.ts';

export interface Visitor {
  readonly caller: Caller;
  readonly secret: string;
  /** Counts so much more of its body until it leaves; throws `too_many_requests` where too much is under way. */
  send(bytes: number): void;
  /** Counts its answer until it leaves; throws `too_many_requests` where the key has too much under way, if it may. */
  answer(bytes: number, how: { readonly mayRefuse: boolean }): void;
  /** When the request has been answered. */
  leave(): void;
}

export interface Doorkeeper {
  /** Throws `unauthenticated`, or `too_many_requests` where the key has too many open or too many were tried. */
  admit(headers: Readonly<Record<string, string | string[] | undefined>>, address: string): Promise<Visitor>;
  readonly inFlight: number;
  settle(): Promise<void>;
}

/** Who uses a key all the time is written down once in so long. */
const MARK_EVERY_MS = 60_000;
const RETRY_MS = 1000;
const MIB = 1024 * 1024;

/** What a key has under way. */
interface Open {
  requests: number;
  bodyBytes: number;
  answerBytes: number;
}

export interface DoorkeeperOptions {
  readonly keys: KeyStore;
  readonly defaults: KeyLimits;
  readonly requests: Pick<ApiConfig['requests'], 'wrongKeysPerMinute' | 'maxBodyMibInFlight'>;
  readonly log: Logger;
}

export function createDoorkeeper({ keys, defaults, requests, log }: DoorkeeperOptions): Doorkeeper {
  const wrongKeys = createWrongKeys(requests.wrongKeysPerMinute);
  const open = new Map<string, Open>();
  /** By key, one at a time: what is slow to be written does not pile up. */
  const marks = new Map<string, Promise<void>>();
  let inFlight = 0;
  /** Of all keys. */
  let bodyBytes = 0;
  const mark = (id: string, at: Date): void => {
    if (marks.has(id)) return;
    const marked = keys
      .markUsed(id, at)
      .catch((err: unknown) => log.warn({ err }, 'the use of a key was not kept'))
      .finally(() => marks.delete(id));
    marks.set(id, marked);
  };
  return {
    admit: async (headers, address) => {
      const secret = keyIn(headers);
      if (secret === undefined) throw refused('An API key is needed, in the header X-API-Key.');
      const tried = wrongKeys.try(secret, address);
      let isGood: boolean | undefined;
      let key: ApiKey | undefined;
      try {
        key = await keys.authenticate(secret);
        isGood = key !== undefined;
      } finally {
        tried(isGood);
      }
      if (key === undefined) throw refused('This API key is not valid: unknown, expired or revoked.');
      const { id, teamId, admin } = key;
      const limits = limitsOf(defaults, key.limits);
      const held = open.get(id) ?? { requests: 0, bodyBytes: 0, answerBytes: 0 };
      if (held.requests >= limits.maxRequestsInFlight) {
        throw retryable('too_many_requests', 'This API key has too many requests open.', RETRY_MS);
      }
      held.requests += 1;
      open.set(id, held);
      inFlight += 1;
      const now = new Date();
      const isToBeMarked = now.getTime() - (key.lastUsedAt?.getTime() ?? 0) > MARK_EVERY_MS;
      let left = false;
      const own = { bodyBytes: 0, answerBytes: 0 };
      return {
        caller: { keyId: id, teamId, admin, limits },
        secret,
        send: (bytes) => {
          // Of its own it is never too much: how large one may be is another limit.
          const isTooMuch = (held: number, mostMib: number): boolean =>
            held > own.bodyBytes && held + bytes > mostMib * MIB;
          if (isTooMuch(held.bodyBytes, limits.maxBodyMibInFlight)) {
            throw retryable(
              'too_many_requests',
              'This API key has too many large requests under way: send fewer at once.',
              RETRY_MS,
            );
          }
          if (isTooMuch(bodyBytes, requests.maxBodyMibInFlight)) {
            throw retryable('too_many_requests', 'Too many large requests are under way.', RETRY_MS);
          }
          bodyBytes += bytes;
          held.bodyBytes += bytes;
          own.bodyBytes += bytes;
        },
        answer: (bytes, { mayRefuse }) => {
          const isAlone = held.answerBytes === 0;
          if (mayRefuse && !isAlone && held.answerBytes + bytes > limits.maxAnswerMibInFlight * MIB) {
            throw retryable(
              'too_many_requests',
              'This API key has too many large answers under way: read them, and ask for fewer at once.',
              RETRY_MS,
            );
          }
          held.answerBytes += bytes;
          own.answerBytes += bytes;
        },
        leave: () => {
          if (left) return;
          left = true;
          inFlight -= 1;
          held.requests -= 1;
          bodyBytes -= own.bodyBytes;
          held.bodyBytes -= own.bodyBytes;
          held.answerBytes -= own.answerBytes;
          if (held.requests === 0) open.delete(id);
          // When nobody waits for it.
          if (isToBeMarked) mark(id, now);
        },
      };
    },
    get inFlight() {
      return inFlight;
    },
    settle: async () => void (await Promise.all(marks.values())),
  };
}

function keyIn(headers: Readonly<Record<string, string | string[] | undefined>>): string | undefined {
  const { 'x-api-key': key, authorization } = headers;
  if (typeof key === 'string' && key !== '') return key;
  if (typeof authorization !== 'string') return undefined;
  return /^Bearer (\S{1,256})$/i.exec(authorization)?.[1];
}

function refused(message: string): WrennError {
  return new WrennError('unauthenticated', message);
}
