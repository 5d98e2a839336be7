/**
 * Slots that are set up before anybody asks, open to all and without limits: what is left for a new sandbox is
 * what it wants to be different. They belong to nobody, are in no journal, and go when the agent does; what an agent
 * that died has left of them, the next one's `start` takes away.
 */
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted } from '../signals/signals.ts';
import type { Network, SlotEgress, SlotOwner } from './slot.ts';

export interface ReadySlotsOptions {
  /** How many are kept; 0 keeps none. */
  readonly size: number;
  /** Whose a slot will be, whoever gets it. */
  readonly ownerOf: (index: number) => SlotOwner;
  /** How long after one was taken the next is made: whoever took it has better uses for the CPU. */
  readonly refillDelayMs: number;
  readonly onWarning: (message: string, cause: unknown) => void;
}

export interface ReadyNetwork extends Network {
  /** Begins to keep slots ready; to be called once the agent owns what there is. */
  keepReady(): void;
}

/** The same network, in which `reserve` gives away ready slots first. */
export function withReadySlots(network: Network, options: ReadySlotsOptions): ReadyNetwork {
  const { size, ownerOf, refillDelayMs, onWarning } = options;
  /** The first to be ready is the first to go. */
  const ready: number[] = [];
  /** Given away, and not yet what their new owners want. */
  const given = new Set<number>();
  const stopping = new AbortController();
  let isKeeping = false;
  let timer: NodeJS.Timeout | undefined;
  let filling = Promise.resolve();

  const fill = async (): Promise<void> => {
    while (ready.length < size && !stopping.signal.aborted) {
      const index = network.reserve();
      try {
        await network.setUp(index, ownerOf(index), stopping.signal);
      } catch (error) {
        await network.release(index);
        throw error;
      }
      ready.push(index);
    }
  };
  const fillSoon = (): void => {
    if (!isKeeping || timer !== undefined || ready.length >= size) return;
    timer = setTimeout(() => {
      timer = undefined;
      filling = filling.then(fill).catch((cause: unknown) => {
        // The next release brings room; until then there are none to be had, ready or not.
        if (stopping.signal.aborted || WrennError.from(cause).code === 'network_slots_exhausted') return;
        onWarning('a network slot could not be made ready', cause);
      });
    }, refillDelayMs);
    timer.unref();
  };

  return {
    ...network,
    keepReady: () => {
      isKeeping = !stopping.signal.aborted;
      fillSoon();
    },
    reserve: () => {
      const index = ready.shift();
      if (index !== undefined) given.add(index);
      fillSoon();
      return index ?? network.reserve();
    },
    setUp: async (index, spec, signal) => {
      if (!given.delete(index)) return network.setUp(index, spec, signal);
      const { uid, gid } = ownerOf(index);
      if (spec.uid !== uid || spec.gid !== gid) {
        throw new WrennError(
          'internal',
          `The network slot ${index} is for the user ${uid}, not for ${spec.uid}.`,
        );
      }
      throwIfAborted(signal);
      if (spec.rates !== undefined) await network.setRates(index, spec.rates, signal);
      if (spec.egress !== undefined && !isOpen(spec.egress))
        await network.setEgress(index, spec.egress, signal);
      return network.describe(index);
    },
    release: async (index) => {
      given.delete(index);
      await network.release(index);
      fillSoon();
    },
    stop: async () => {
      isKeeping = false;
      stopping.abort();
      clearTimeout(timer);
      await filling;
      await Promise.all(ready.splice(0).map((index) => network.release(index)));
      await network.stop();
    },
  };
}

function isOpen({ allowed, refused, named }: SlotEgress): boolean {
  return allowed.length === 0 && refused.length === 0 && named === undefined;
}
