/**
 * How much of the host a key may have at once: of its memory, with sandboxes that run, those that are made and those
 * that are woken alike; and of its disk, with sandboxes that are paused and with snapshots. A sandbox counts for the key
 * that made it, whoever wakes or pauses it; a snapshot for the one that made the snapshot.
 *
 * A sandbox whose time is over is paused by the agent, which knows no keys, and is never refused: all that could be done
 * with it instead would lose it. So it is its creation that needs room for one more that is paused. Those that run
 * meanwhile may pause all the same, which makes at most `maxPausedSandboxes` and `maxSandboxes` together.
 */
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import type { KeyLimits } from '../config/schema.ts';
import type { Store } from '../store/index.ts';
import type { SandboxRecord } from '../store/sandboxes.ts';
import type { Caller } from './caller.ts';
import { type LimitedKind, type Limits, limitsOf } from './limits.ts';
import type { Listing } from './listing.ts';
import { standingOf } from './view.ts';

/** Each throws where there is no room. What it holds is held until the returned function is called. */
export interface Places {
  /** As that of the limits. */
  readonly pace: Limits['pace'];
  /** For so many new ones, which pause by themselves or do not. */
  forNew(caller: Caller, count: number, autoPause: boolean): Promise<() => void>;
  /** For one that sleeps. */
  toWake(record: SandboxRecord): Promise<() => void>;
  /** For one that runs, and is asked to sleep. */
  toPause(record: SandboxRecord): Promise<() => void>;
  forSnapshot(caller: Caller): Promise<() => void>;
}

export interface PlacesDeps {
  readonly agent: Agent;
  readonly store: Store;
  readonly listing: Listing;
  readonly limits: Limits;
  readonly defaults: KeyLimits;
}

type Owner = Pick<SandboxRecord, 'keyId' | 'teamId'>;

const holdsMemory = (one: AgentSandbox): boolean => !['hibernated', 'failed'].includes(standingOf(one));
const sleeps = (one: AgentSandbox): boolean => ['hibernated', 'hibernating'].includes(standingOf(one));

export function createPlaces({ agent, store, listing, limits, defaults }: PlacesDeps): Places {
  /** Their places are held already, whatever the agent says of them at the moment. */
  const waking = new Set<string>();
  const pausing = new Set<string>();

  const counting = ({ keyId, teamId }: Owner, underWay: Set<string>, is: (one: AgentSandbox) => boolean) => {
    return async (most: number): Promise<number> => {
      // As of now, as are the places held: what begins from here on sees this one's.
      const held = new Set(underWay);
      // Only where it matters is the agent asked what they are at.
      const notEnded = await store.sandboxes.count(teamId, keyId);
      if (notEnded <= most) return notEnded;
      const all = await listing(teamId);
      return all.filter(
        ({ record, sandbox }) => record.keyId === keyId && is(sandbox) && !held.has(record.id),
      ).length;
    };
  };
  const liveOf = (owner: Owner) => counting(owner, waking, holdsMemory);
  const pausedOf = (owner: Owner) => counting(owner, pausing, sleeps);

  const change = async (
    record: SandboxRecord,
    kind: LimitedKind,
    underWay: Set<string>,
    present: (most: number) => Promise<number>,
  ): Promise<() => void> => {
    const { id, keyId } = record;
    const key = await store.keys.get(keyId);
    underWay.add(id);
    try {
      const owner = { keyId, limits: limitsOf(defaults, key?.limits) };
      const release = await limits.hold(kind, owner, 1, present);
      return () => {
        underWay.delete(id);
        release();
      };
    } catch (error) {
      underWay.delete(id);
      throw error;
    }
  };

  return {
    pace: limits.pace,
    forNew: async (caller, count, autoPause) => {
      const release = await limits.hold('maxSandboxes', caller, count, liveOf(caller));
      if (!autoPause) return release;
      try {
        const room = await limits.hold('maxPausedSandboxes', caller, 1, pausedOf(caller));
        room();
        return release;
      } catch (error) {
        release();
        throw error;
      }
    },
    toWake: (record) => change(record, 'maxSandboxes', waking, liveOf(record)),
    toPause: (record) => change(record, 'maxPausedSandboxes', pausing, pausedOf(record)),
    forSnapshot: (caller) =>
      limits.hold('maxSnapshots', caller, 1, async (most) => {
        const ids = await store.snapshots.idsOf(caller.keyId);
        if (ids.length <= most) return ids.length;
        // The host's own command line deletes them without telling.
        const there = new Set((await agent.snapshots()).map(({ id }) => id));
        return ids.filter((id) => there.has(id)).length;
      }),
  };
}
