/**
 * How many sandboxes of a key may hold the host's memory at once: those that are made and those that are woken alike. One
 * counts for the key that made it, whoever wakes it.
 */
import type { Agent } from '../agent-client/index.ts';
import type { KeyLimits } from '../config/schema.ts';
import type { Store } from '../store/index.ts';
import type { SandboxRecord } from '../store/sandboxes.ts';
import type { Caller } from './caller.ts';
import { type Limits, limitsOf } from './limits.ts';

export interface Places {
  /** As that of the limits. */
  readonly pace: Limits['pace'];
  /** For so many new ones; throws `too_many_sandboxes`. The places are held until the returned function is called. */
  forNew(caller: Caller, count: number): Promise<() => void>;
  /** For one that sleeps; throws `too_many_sandboxes`. Held as above. */
  toWake(record: SandboxRecord): Promise<() => void>;
}

export interface PlacesDeps {
  readonly agent: Agent;
  readonly store: Store;
  readonly limits: Limits;
  readonly defaults: KeyLimits;
}

export function createPlaces({ agent, store, limits, defaults }: PlacesDeps): Places {
  /** Their places are held already, whatever the agent says of them at the moment. */
  const waking = new Set<string>();

  const liveOf = ({ keyId, teamId }: Pick<SandboxRecord, 'keyId' | 'teamId'>) => {
    return async (most: number): Promise<number> => {
      // As of now, as are the places held: what begins to wake from here on sees this one's.
      const held = new Set(waking);
      // Only where it matters is the agent asked which of them sleep.
      const notEnded = await store.sandboxes.count(teamId, keyId);
      if (notEnded <= most) return notEnded;
      const [records, sandboxes] = await Promise.all([store.sandboxes.live(teamId), agent.list()]);
      const states = new Map(sandboxes.map(({ id, state }) => [id, state]));
      return records.filter((record) => {
        const state = states.get(record.id);
        const isLive = state !== undefined && state !== 'hibernated' && state !== 'failed';
        return record.keyId === keyId && isLive && !held.has(record.id);
      }).length;
    };
  };

  return {
    pace: limits.pace,
    forNew: (caller, count) => limits.hold(caller, count, liveOf(caller)),
    toWake: async (record) => {
      const { id, keyId } = record;
      const key = await store.keys.get(keyId);
      waking.add(id);
      try {
        const owner = { keyId, limits: limitsOf(defaults, key?.limits) };
        const release = await limits.hold(owner, 1, liveOf(record));
        return () => {
          waking.delete(id);
          release();
        };
      } catch (error) {
        waking.delete(id);
        throw error;
      }
    },
  };
}
