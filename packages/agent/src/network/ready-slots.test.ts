/** Which slots are kept ready, who gets them, and that all go; in a real kernel: network.host.test.ts. */

import { parseIpv4Range } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { afterEach, describe, expect, it } from 'vitest';
import { type ReadyNetwork, withReadySlots } from './ready-slots.ts';
import type { Network } from './slot.ts';

const signal = new AbortController().signal;
const ownerOf = (index: number) => ({ uid: 1000 + index, gid: 1000 + index });
const OPEN = { allowed: [], refused: [] };

/** Remembers what was asked of it; `count` slots. */
function createFakeNetwork(count: number) {
  const calls: string[] = [];
  const state = new Map<number, 'reserved' | 'up'>();
  let setUpFails = 0;
  const describeSlot = (index: number) => ({
    index,
    netns: `t-${index}`,
    hostLink: `t-${index}`,
    tap: 'tap0',
    guestMac: '02:00:00:00:00:01',
    address: `10.0.0.${2 * index + 1}`,
  });
  const network: Network = {
    start: async () => [],
    reserve: () => {
      const index = Array.from({ length: count }, (_, i) => i).find((i) => !state.has(i));
      if (index === undefined) throw new WrennError('network_slots_exhausted', 'none');
      state.set(index, 'reserved');
      return index;
    },
    setUp: async (index, { uid }) => {
      calls.push(`set up ${index} for ${uid}`);
      await Promise.resolve();
      if (setUpFails-- > 0) throw new WrennError('command_failed', 'on purpose');
      state.set(index, 'up');
      return describeSlot(index);
    },
    setRates: async (index) => void calls.push(`rates ${index}`),
    setEgress: async (index) => void calls.push(`egress ${index}`),
    describe: describeSlot,
    release: async (index) => {
      if (!state.delete(index)) throw new Error(`${index} was released twice`);
      calls.push(`release ${index}`);
    },
    stop: async () => void calls.push('stop'),
  };
  return {
    network,
    calls,
    state,
    failNext: (times: number) => {
      setUpFails = times;
    },
  };
}

describe('ready slots', () => {
  const warnings: string[] = [];
  let fake: ReturnType<typeof createFakeNetwork>;
  let network: ReadyNetwork;

  const keep = (size: number, count = 8): void => {
    fake = createFakeNetwork(count);
    network = withReadySlots(fake.network, {
      size,
      ownerOf,
      refillDelayMs: 1,
      onWarning: (message) => warnings.push(message),
    });
    network.keepReady();
  };
  const until = (done: () => boolean) => expect.poll(done, { interval: 2, timeout: 2000 }).toBe(true);
  const ups = () => [...fake.state.values()].filter((state) => state === 'up').length;

  afterEach(async () => {
    warnings.length = 0;
    await network.stop();
    expect([...fake.state.values()], 'a slot is left').toEqual([]);
    expect(fake.calls.at(-1)).toBe('stop');
  });

  it('are set up for whoever will have them, and handed out without another look', async () => {
    keep(2);
    await until(() => ups() === 2);
    const index = network.reserve();
    const slot = await network.setUp(index, { ...ownerOf(index), rates: {}, egress: OPEN }, signal);
    expect(slot).toEqual(fake.network.describe(index));
    expect(fake.calls.filter((call) => call.startsWith('set up'))[index]).toBe(
      `set up ${index} for ${1000 + index}`,
    );
    expect(fake.calls).not.toContain(`egress ${index}`);
    await until(() => ups() === 3);
    await network.release(index);
  });

  it('get the limits and the rules that are wanted, before anybody runs in them', async () => {
    keep(1);
    await until(() => ups() === 1);
    const index = network.reserve();
    const egress = { allowed: [], refused: [parseIpv4Range('0.0.0.0/0')] };
    await network.setUp(index, { ...ownerOf(index), rates: { receiveBytesPerSecond: 1 }, egress }, signal);
    expect(fake.calls).toEqual(expect.arrayContaining([`rates ${index}`, `egress ${index}`]));
    await network.release(index);
  });

  it('are used up by many at once, who then get others', async () => {
    keep(2);
    await until(() => ups() === 2);
    const indices = [1, 2, 3, 4].map(() => network.reserve());
    expect(new Set(indices).size).toBe(4);
    await Promise.all(
      indices.map((index) => network.setUp(index, { ...ownerOf(index), egress: OPEN }, signal)),
    );
    await until(() => ups() === 6);
    await Promise.all(indices.map((index) => network.release(index)));
  });

  it('take nothing from others where there are few, and come back when there is room', async () => {
    keep(4, 3);
    await until(() => ups() === 3);
    const indices = [1, 2, 3].map(() => network.reserve());
    expect(() => network.reserve()).toThrow(expect.objectContaining({ code: 'network_slots_exhausted' }));
    for (const index of indices) await network.release(index);
    await until(() => ups() === 3);
    expect(warnings).toEqual([]);
  });

  it('that cannot be made are given back, with a warning, and tried again for the next', async () => {
    keep(1);
    fake.failNext(1);
    await until(() => warnings.length === 1);
    expect(fake.state.size).toBe(0);
    const index = network.reserve();
    await until(() => ups() === 1);
    await network.release(index);
  });

  it('are given back unused by whoever changes his mind, and are as new for the next', async () => {
    keep(1, 1);
    await until(() => ups() === 1);
    await network.release(network.reserve());
    await until(() => ups() === 1);
    const index = network.reserve();
    await network.setUp(index, { ...ownerOf(index), egress: OPEN }, signal);
    await network.release(index);
  });

  it('are for one user alone', async () => {
    keep(1);
    await until(() => ups() === 1);
    const index = network.reserve();
    await expect(network.setUp(index, { uid: 1, gid: 1 }, signal)).rejects.toMatchObject({
      code: 'internal',
    });
    await network.release(index);
  });

  it.each([0, 1, 2, 3, 5, 8])('all go when the agent does, %i ms after it began', async (ms) => {
    keep(4);
    await new Promise((resolve) => setTimeout(resolve, ms));
    await network.stop();
    expect(fake.state.size).toBe(0);
  });
});
