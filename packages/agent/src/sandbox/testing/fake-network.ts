import { WrennError } from '@wrenn/protocol';
import type { Network, NetworkSlot } from '../../network/slot.ts';
import { throwIfAborted } from '../../signals/signals.ts';
import type { Ledger } from './ledger.ts';

export function fakeNetwork(world: Ledger): Network {
  const slot = (index: number): NetworkSlot => ({
    index,
    netns: `fake${index}`,
    hostLink: `fake${index}`,
    tap: 'tap0',
    guestMac: '02:00:00:00:00:01',
    address: `192.0.2.${index}`,
  });
  return {
    start: async (inUse) => {
      const removed = [...world.slots.keys()].filter((index) => !inUse.has(index));
      for (const index of removed) world.slots.delete(index);
      for (const index of inUse) world.slots.set(index, 'up');
      return removed;
    },
    reserve: () => {
      // The lowest free one, at once: so that a slot released twice is somebody else's.
      for (let index = 0; index < 250; index++) {
        if (world.slots.has(index)) continue;
        world.slots.set(index, 'reserved');
        return index;
      }
      throw new WrennError('network_slots_exhausted', 'No slot is left.');
    },
    setUp: async (index, _owner, signal) => {
      if (world.slots.get(index) !== 'reserved') world.violations.push(`slot ${index} was not reserved`);
      await world.disturb('setUp', signal);
      throwIfAborted(signal);
      world.slots.set(index, 'up');
      return slot(index);
    },
    setRates: async (index) => {
      if (world.slots.get(index) !== 'up') world.violations.push(`slot ${index} was not set up`);
    },
    setEgress: async (index) => {
      if (world.slots.get(index) !== 'up') world.violations.push(`slot ${index} was not set up`);
    },
    describe: slot,
    release: async (index) => {
      await world.disturb('release');
      if (!world.slots.has(index)) world.violations.push(`slot ${index} was released twice`);
      world.slots.delete(index);
    },
    stop: async () => {},
  };
}
