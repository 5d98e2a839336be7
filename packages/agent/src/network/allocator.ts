/** Who has which index. Pure: no clock but the one it is given, no kernel. */
import { WrennError } from '@wrenn/protocol';

export interface SlotAllocator {
  /** An index that nobody has and that has rested. Throws `network_slots_exhausted`. */
  reserve(): number;
  /** Takes an index that an earlier agent gave away. */
  adopt(index: number): void;
  isTaken(index: number): boolean;
  /** Gives an index back: from now on it rests. Idempotent; a rest that has begun is not made longer. */
  release(index: number): void;
  readonly takenCount: number;
}

/**
 * Indices go round: the one after the last is tried first, so that an address rests for as long as there are
 * others, and never for less than the hold-off.
 */
export function createSlotAllocator(count: number, holdOffMs: number, now: () => number): SlotAllocator {
  const taken = new Set<number>();
  /** When each resting index may be used again. */
  const restsUntil = new Map<number, number>();
  let next = 0;

  const hasRested = (index: number): boolean => (restsUntil.get(index) ?? 0) <= now();

  return {
    reserve: () => {
      for (let step = 0; step < count; step += 1) {
        const index = (next + step) % count;
        if (taken.has(index) || !hasRested(index)) continue;
        restsUntil.delete(index);
        taken.add(index);
        next = (index + 1) % count;
        return index;
      }
      throw new WrennError('network_slots_exhausted', `All ${count} network slots are in use.`, {
        hint: 'Destroy a sandbox and wait some seconds, or give the agent a larger `network.range`.',
      });
    },
    adopt: (index) => {
      restsUntil.delete(index);
      taken.add(index);
    },
    isTaken: (index) => taken.has(index),
    release: (index) => {
      if (!taken.delete(index)) return;
      restsUntil.set(index, now() + holdOffMs);
    },
    get takenCount() {
      return taken.size;
    },
  };
}
