/** The slots of one agent, put together: who has which, one change to each at a time. */
import { formatIpv4Range } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { createSlotAllocator } from './allocator.ts';
import { describeSlot, type NetworkConfig, planNetwork, slotName } from './config.ts';
import type { EgressGateway } from './gateway/supervisor.ts';
import { createNetworkHost, type NetworkHost } from './host.ts';
import { checkUnchanged, examineHost, installHostSide, removeHostSide } from './host-side.ts';
import { deniedRanges } from './policy.ts';
import type { Network, SlotEgress } from './slot.ts';
import { limitSlot, replaceRules, setUpSlot, takeDownSlot } from './slot-kernel.ts';

/** Each waits for the kernel most of the time. */
const LEFTOVERS_AT_ONCE = 8;

/** Where no guest is led, whatever its rules say. */
export function deniedToGuests(config: NetworkConfig): string[] {
  return deniedRanges(planNetwork(config)).map(formatIpv4Range);
}

/** Throws `invalid_config`. Nothing on the host is touched before `start`. Without a gateway no names can be allowed. */
export function createNetwork(
  config: NetworkConfig,
  host: NetworkHost = createNetworkHost(),
  gateway?: EgressGateway,
): Network {
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

  const assertTaken = (index: number): void => {
    if (slots.isTaken(index)) return;
    throw new WrennError('internal', `The network slot ${index} has not been reserved.`);
  };

  const openDoor = async (index: number, { named }: SlotEgress, signal: AbortSignal): Promise<void> => {
    if (named === undefined) return;
    if (gateway === undefined) throw new WrennError('internal', 'There is no gateway for names.');
    const { names, transmitBytesPerSecond } = named;
    await gateway.open(slotName(plan, index), { names: [...names], transmitBytesPerSecond }, signal);
  };
  const closeDoor = async (index: number): Promise<void> => await gateway?.close(slotName(plan, index));

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
        assertTaken(index);
        await setUpSlot(plan, host, index, spec, mtu, signal);
        if (spec.egress?.named !== undefined) {
          try {
            await openDoor(index, spec.egress, signal);
          } catch (error) {
            await closeDoor(index);
            await takeDownSlot(plan, host, index);
            throw error;
          }
        }
        return describeSlot(plan, index);
      }),
    setRates: (index, rates, signal) =>
      inTurn(index, async () => {
        assertTaken(index);
        await limitSlot(plan, host, index, rates, signal);
      }),
    setEgress: (index, egress, signal) =>
      inTurn(index, async () => {
        assertTaken(index);
        // What leads to a door comes after it, and goes before it.
        await openDoor(index, egress, signal);
        await replaceRules(plan, host, index, egress, signal);
        if (egress.named === undefined) await closeDoor(index);
      }),
    describe: (index) => describeSlot(plan, index),
    release: (index) =>
      inTurn(index, async () => {
        // Released already, and perhaps another's by now.
        if (!slots.isTaken(index)) return;
        // A socket keeps its namespace.
        await closeDoor(index);
        await takeDownSlot(plan, host, index);
        slots.release(index);
      }),
    stop: async () => {
      // Without the table a slot that is left would be without its rules.
      if (slots.takenCount > 0) return;
      await gateway?.stop();
      await removeHostSide(plan, host);
    },
  };
}
