/**
 * How many keys one client may try that are none: each costs a question to the store. Those that were good lately are
 * asked for in any case, so that a client is not shut out by another one at the same address.
 */
import { createHash } from 'node:crypto';
import { networkOf } from '../client-connections.ts';
import { retryable } from '../sandboxes/limits.ts';

export interface WrongKeys {
  /** Throws `too_many_requests`; call the result once it is known what the key is, or that nobody could tell. */
  try(secret: string, address: string): (isGood: boolean | undefined) => void;
}

const MINUTE_MS = 60_000;
const MAX_ADDRESSES = 10_000;
const MAX_GOOD = 10_000;

interface Tries {
  left: number;
  atMs: number;
}

export function createWrongKeys(perMinute: number, now: () => number = () => performance.now()): WrongKeys {
  const byAddress = new Map<string, Tries>();
  const good = new Map<string, true>();

  const triesOf = (address: string): Tries => {
    const nowMs = now();
    const known = byAddress.get(address) ?? { left: perMinute, atMs: nowMs };
    known.left = Math.min(perMinute, known.left + ((nowMs - known.atMs) * perMinute) / MINUTE_MS);
    known.atMs = nowMs;
    keep(byAddress, address, known, MAX_ADDRESSES);
    return known;
  };

  return {
    try: (secret, address) => {
      const hash = createHash('sha256').update(secret).digest('base64');
      if (good.has(hash)) {
        return (isGood) => {
          if (isGood === false) good.delete(hash);
        };
      }
      const tries = triesOf(networkOf(address));
      if (tries.left < 1) {
        const retryAfterMs = ((1 - tries.left) * MINUTE_MS) / perMinute;
        throw retryable(
          'too_many_requests',
          'Too many API keys were tried that are not valid.',
          retryAfterMs,
        );
      }
      // Taken before the answer is there, so that those who try at the same time see each other.
      tries.left -= 1;
      return (isGood) => {
        if (isGood === false) return;
        tries.left = Math.min(perMinute, tries.left + 1);
        if (isGood === true) keep(good, hash, true, MAX_GOOD);
      };
    },
  };
}

/** The newest stay. */
function keep<V>(map: Map<string, V>, key: string, value: V, most: number): void {
  map.delete(key);
  map.set(key, value);
  const [oldest] = map.keys();
  if (map.size > most && oldest !== undefined) map.delete(oldest);
}
