/** The slots of one agent, put together: who has which, one change to each at a time. */
import { WrennError } from '@wrenn/protocol';
import { createSlotAllocator } from './allocator.ts';
import { describeSlot, type NetworkConfig, planNetwork } from './config.ts';
import { createNetworkHost, type NetworkHost } from './host.ts';
import { checkUnchanged, examineHost, installHostSide, removeHostSide } from './host-side.ts';
import type { Network } from './slot.ts';
import { replaceRules, setUpSlot, takeDownSlot } from './slot-kernel.ts';

/** Each waits for the kernel most of the time. */
const LEFTOVERS_AT_ONCE = 8;

/** Throws `invalid_config`. Nothing on the host is touched before `start`. */
export function createNetwork(config: NetworkConfig, host: NetworkHost = createNetworkHost()): Network {
  const plan = planNetwork(config);
  const slots = createSlotAllocator(plan.slotCount, plan.holdOffMs, host.now);
  /** The last change to each index that is not over: the next one waits for it. */
  const changes = new Map<number, Promise<unknown>>();
  /** Known once the host was examined. */
  let mtu: number | undefined;

  const inTurn = async <T>(index: number, change: () => Promise<T>): Promise<T> => {
    const before = changes.get(index) ?? Promise.resolve();
    // Whether the change before failed is its caller's business.
    const mine = before.then(change, change);
    changes.set(index, mine);
    try {
      return await mine;
    } finally {
      if (changes.get(index) === mine) changes.delete(index);
    }
  };

  return {
    start: async (inUse, signal) => {
      const state = await examineHost(plan, host, signal);
      checkUnchanged(plan, state.routes, inUse);
      const leftovers = state.slots.filter((index) => !inUse.has(index)).sort((a, b) => a - b);
      for (let first = 0; first < leftovers.length; first += LEFTOVERS_AT_ONCE) {
        if (signal.aborted) throw WrennError.from(signal.reason);
        const some = leftovers.slice(first, first + LEFTOVERS_AT_ONCE);
        await Promise.all(some.map((index) => takeDownSlot(plan, host, index)));
      }
      await installHostSide(plan, host, state, signal);
      for (const index of inUse) slots.adopt(index);
      for (const index of leftovers) {
        // Taken and given back, so that it rests.
        slots.adopt(index);
        slots.release(index);
      }
      mtu = state.mtu;
      return leftovers;
    },
    reserve: () => slots.reserve(),
    setUp: (index, spec, signal) =>
      inTurn(index, async () => {
        if (mtu === undefined) throw new WrennError('internal', 'The network has not been started.');
        if (!slots.isTaken(index)) {
          throw new WrennError('internal', `The network slot ${index} has not been reserved.`);
        }
        await setUpSlot(plan, host, index, spec, mtu, signal);
        return describeSlot(plan, index);
      }),
    setEgress: (index, egress, signal) =>
      inTurn(index, async () => {
        if (!slots.isTaken(index)) {
          throw new WrennError('internal', `The network slot ${index} has not been reserved.`);
        }
        await replaceRules(plan, host, index, egress, signal);
      }),
    describe: (index) => describeSlot(plan, index),
    release: (index) =>
      inTurn(index, async () => {
        // Released already, and perhaps another's by now.
        if (!slots.isTaken(index)) return;
        await takeDownSlot(plan, host, index);
        slots.release(index);
      }),
    stop: async () => {
      // Without the table a slot that is left would be without its rules.
      if (slots.takenCount > 0) return;
      await removeHostSide(plan, host);
    },
  };
}
