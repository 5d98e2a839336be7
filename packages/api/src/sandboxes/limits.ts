/** What one key may have at once and how fast. In memory: a restart forgives the rate, never the number. */
import { WrennError } from '@wrenn/protocol';
import type { KeyLimits } from '../config/schema.ts';
import type { KeyLimitOverrides } from '../store/keys.ts';
import type { Caller } from './caller.ts';

/** An error that says when to come again; rest/ makes a Retry-After of it. */
export interface Retryable {
  readonly retryAfterMs: number;
}

export interface Limits {
  /** Throws `too_many_requests` where too many were asked for in too short a time. */
  pace(caller: LimitedKey, count: number): void;
  /**
   * Makes room for so many more of a kind or throws. `present` counts those that are there, and may count too many as
   * long as that is not more than `most`, with which there is room. The room is held until the returned function is
   * called: when they are among those that `present` counts, or never will be.
   */
  hold(
    kind: LimitedKind,
    owner: LimitedKey,
    count: number,
    present: (most: number) => Promise<number>,
  ): Promise<() => void>;
}

/** What there may be so many of at once. */
export type LimitedKind = 'maxSandboxes' | 'maxPausedSandboxes' | 'maxSnapshots';

export type LimitedKey = Pick<Caller, 'keyId' | 'limits'>;

const MINUTE_MS = 60_000;
/** Where places become free when somebody else lets go, nobody knows when. */
const PLACE_RETRY_MS = 5000;
const MAX_BUCKETS = 10_000;
/** For room, where others who have theirs keep on coming to the end. */
const MAX_LOOKS = 5;

interface Bucket {
  tokens: number;
  at: number;
}

const TOO_MANY: Readonly<Record<LimitedKind, (most: number) => WrennError & Retryable>> = {
  maxSandboxes: (most) =>
    retryable(
      'too_many_sandboxes',
      `This API key may have ${most} running sandboxes at once (maxSandboxes): kill or pause one first.`,
      PLACE_RETRY_MS,
    ),
  maxPausedSandboxes: (most) =>
    retryable(
      'too_many_sandboxes',
      `This API key may have ${most} paused sandboxes at once (maxPausedSandboxes), and one that pauses by itself needs room, too: kill or resume one first.`,
      PLACE_RETRY_MS,
    ),
  maxSnapshots: (most) =>
    retryable(
      'too_many_requests',
      `This API key may have ${most} snapshots at once (maxSnapshots): delete one first.`,
      PLACE_RETRY_MS,
    ),
};

export function createLimits(now: () => number = () => performance.now()): Limits {
  const buckets = new Map<string, Bucket>();
  const reserved = new Map<string, number>();

  const pace = ({ keyId, limits }: LimitedKey, count: number): void => {
    const perMinute = limits.createsPerMinute;
    const bucket = buckets.get(keyId) ?? { tokens: perMinute, at: now() };
    bucket.tokens = Math.min(perMinute, bucket.tokens + ((now() - bucket.at) * perMinute) / MINUTE_MS);
    bucket.at = now();
    buckets.delete(keyId);
    buckets.set(keyId, bucket);
    const [oldest] = buckets.keys();
    if (buckets.size > MAX_BUCKETS && oldest !== undefined) buckets.delete(oldest);
    if (bucket.tokens < count) {
      const retryAfterMs = ((count - bucket.tokens) * MINUTE_MS) / perMinute;
      throw retryable(
        'too_many_requests',
        `This API key may create ${perMinute} sandboxes a minute.`,
        retryAfterMs,
      );
    }
    bucket.tokens -= count;
  };

  return {
    pace,
    hold: async (kind, { keyId, limits }, count, present) => {
      const place = `${kind} ${keyId}`;
      const heldByOthers = (): number => (reserved.get(place) ?? 0) - count;
      // Before anything is waited for, so that those who come at the same time see each other.
      reserved.set(place, (reserved.get(place) ?? 0) + count);
      let released = false;
      const release = (): void => {
        if (released) return;
        released = true;
        const left = heldByOthers();
        if (left > 0) reserved.set(place, left);
        else reserved.delete(place);
      };
      try {
        for (let looks = 1; ; looks += 1) {
          const held = heldByOthers();
          const most = limits[kind] - held - count;
          if (most >= 0 && (await present(most)) <= most) return release;
          // What came to be there meanwhile was counted twice, as present and as held.
          if (heldByOthers() >= held || looks >= MAX_LOOKS) throw TOO_MANY[kind](limits[kind]);
        }
      } catch (error) {
        release();
        throw error;
      }
    },
  };
}

/** The configuration's, but for what the key has of its own. */
export function limitsOf(defaults: KeyLimits, own: KeyLimitOverrides = {}): KeyLimits {
  const set = Object.entries(own).filter(([, value]) => value !== undefined);
  return { ...defaults, ...Object.fromEntries(set) };
}

export function retryable(
  code: 'too_many_requests' | 'too_many_sandboxes' | 'sandbox_unavailable',
  message: string,
  retryAfterMs: number,
): WrennError & Retryable {
  return Object.assign(new WrennError(code, message), { retryAfterMs });
}
