/** That a rate holds, in both directions, and that without one the same way is far faster. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createNetwork } from './network.ts';
import { rateCommands } from './rates.ts';
import type { Network, NetworkSlot } from './slot.ts';
import { createLab, type Lab, WORLD } from './testing/lab.ts';
import { transferRate } from './testing/traffic.ts';

const OWNER = { uid: 54_321, gid: 54_322 };
const MIB = 1024 * 1024;
const RATES = { receiveBytesPerSecond: 2 * MIB, transmitBytesPerSecond: MIB };
const PORT = 4000;
const MEASUREMENTS_MAX = 3;
const signal = new AbortController().signal;

let lab: Lab;
let network: Network;
let limited: NetworkSlot;
let free: NetworkSlot;
let limitedGuest: string;
let freeGuest: string;

async function linksWithRate(slot: NetworkSlot): Promise<string[]> {
  const args = ['-json', '-netns', slot.netns, 'qdisc', 'show'];
  const { stdout } = await lab.run('tc', args, { timeoutMs: 5000 });
  const qdiscs: { kind: string; dev: string }[] = JSON.parse(stdout);
  return qdiscs.filter(({ kind }) => kind === 'tbf').map(({ dev }) => dev);
}

/** Measured again where it is out of bounds: a machine that stands still for a moment is no rate. */
async function measured(measure: () => Promise<number>, least: number, most = Infinity): Promise<number> {
  let rate = await measure();
  for (let left = MEASUREMENTS_MAX - 1; left > 0 && (rate <= least || rate >= most); left--) {
    rate = await measure();
  }
  return rate;
}

beforeAll(async () => {
  lab = await createLab();
  network = createNetwork(lab.config, lab.networkHost());
  await network.start(new Set(), signal);
  limited = await network.setUp(network.reserve(), { ...OWNER, rates: RATES }, signal);
  free = await network.setUp(network.reserve(), OWNER, signal);
});

afterAll(() => lab.close());

describe('a rate', () => {
  it('is on both links of the slot that has one, and on no other', async () => {
    expect(await linksWithRate(limited)).toEqual(['veth0', 'tap0']);
    expect(await linksWithRate(free)).toEqual([]);
  });

  describe('with a guest', () => {
    beforeAll(async () => {
      limitedGuest = await lab.plugGuest(limited);
      freeGuest = await lab.plugGuest(free);
      // The link in the TAP's place is a new one.
      const { receiveBytesPerSecond } = RATES;
      await lab.networkHost().tc.batch(rateCommands({ receiveBytesPerSecond }), { netns: limited.netns });
    });

    const received = (slot: NetworkSlot, guest: string, sizeBytes: number) =>
      transferRate({ from: lab.hostNetns, to: guest, address: slot.address, port: PORT, sizeBytes });
    const transmitted = (guest: string, sizeBytes: number) =>
      transferRate({ from: guest, to: lab.worldNetns, address: WORLD.internet, port: PORT, sizeBytes });

    it('holds for what the guest receives', async () => {
      const [least, most] = [0.5 * RATES.receiveBytesPerSecond, 1.1 * RATES.receiveBytesPerSecond];
      const rate = await measured(() => received(limited, limitedGuest, 4 * MIB), least, most);
      expect(rate).toBeGreaterThan(least);
      expect(rate).toBeLessThan(most);
    });

    it('holds for what the guest sends', async () => {
      const [least, most] = [0.5 * RATES.transmitBytesPerSecond, 1.1 * RATES.transmitBytesPerSecond];
      const rate = await measured(() => transmitted(limitedGuest, 2 * MIB), least, most);
      expect(rate).toBeGreaterThan(least);
      expect(rate).toBeLessThan(most);
    });

    it('is what makes the difference', async () => {
      const [fastReceive, fastTransmit] = [
        10 * RATES.receiveBytesPerSecond,
        10 * RATES.transmitBytesPerSecond,
      ];
      const inwards = await measured(() => received(free, freeGuest, 32 * MIB), fastReceive);
      expect(inwards).toBeGreaterThan(fastReceive);
      const outwards = await measured(() => transmitted(freeGuest, 32 * MIB), fastTransmit);
      expect(outwards).toBeGreaterThan(fastTransmit);
    });
  });

  it('goes away with its slot', async () => {
    await network.release(limited.index);
    await network.release(free.index);
    await network.stop();
    expect(await lab.inventory()).toEqual([]);
  });
});
