/** Keys to callers. A key is in X-API-Key or, as the CLI has it, a bearer token. */
import { WrennError } from '@wrenn/protocol';
import type { KeyLimits } from '../config/schema.ts';
import type { Logger } from '../log.ts';
import type { Caller } from '../sandboxes/caller.ts';
import { limitsOf, retryable } from '../sandboxes/limits.ts';
import type { ApiKey, KeyStore } from '../store/keys.ts';
import { createWrongKeys } from './wrong-keys.ts';

export interface Visitor {
  readonly caller: Caller;
  readonly secret: string;
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

export interface DoorkeeperOptions {
  readonly keys: KeyStore;
  readonly defaults: KeyLimits;
  readonly wrongKeysPerMinute: number;
  readonly log: Logger;
}

export function createDoorkeeper({ keys, defaults, wrongKeysPerMinute, log }: DoorkeeperOptions): Doorkeeper {
  const wrongKeys = createWrongKeys(wrongKeysPerMinute);
  const open = new Map<string, number>();
  const marks = new Set<Promise<void>>();
  let inFlight = 0;
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
      const count = open.get(id) ?? 0;
      if (count >= limits.maxRequestsInFlight) {
        throw retryable('too_many_requests', 'This API key has too many requests open.', RETRY_MS);
      }
      open.set(id, count + 1);
      inFlight += 1;
      const now = new Date();
      if (now.getTime() - (key.lastUsedAt?.getTime() ?? 0) > MARK_EVERY_MS) {
        const mark: Promise<void> = keys
          .markUsed(id, now)
          .catch((err: unknown) => log.warn({ err }, 'the use of a key was not kept'))
          .finally(() => marks.delete(mark));
        marks.add(mark);
      }
      let left = false;
      return {
        caller: { keyId: id, teamId, admin, limits },
        secret,
        leave: () => {
          if (left) return;
          left = true;
          inFlight -= 1;
          const rest = (open.get(id) ?? 1) - 1;
          if (rest === 0) open.delete(id);
          else open.set(id, rest);
        },
      };
    },
    get inFlight() {
      return inFlight;
    },
    settle: async () => void (await Promise.all(marks)),
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
