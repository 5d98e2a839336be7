/** A slot that was ready is, in the kernel, what one would be that is made when it is asked for. */
import { parseIpv4Range } from '@wrenn/host';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createNetwork } from './network.ts';
import { withReadySlots } from './ready-slots.ts';
import type { NetworkSlot, SlotSpec } from './slot.ts';
import { createLab, type Lab } from './testing/lab.ts';

const OWNER = { uid: 54_321, gid: 54_321 };
const signal = new AbortController().signal;

let lab: Lab;
beforeEach(async () => {
  madeCount = 0;
  warnings.length = 0;
  lab = await createLab();
});
afterEach(async () => {
  await lab.close();
  expect(warnings).toEqual([]);
});

const namespaces = async () => (await lab.inventory()).filter((item) => item.startsWith('namespace'));

/** How many have been set up, by whoever. */
let madeCount = 0;
const warnings: unknown[] = [];
const untilMade = (count: number) => expect.poll(() => madeCount, { timeout: 5000 }).toBe(count);

function readyNetwork(size: number) {
  const network = createNetwork(lab.config, lab.networkHost());
  const setUp: typeof network.setUp = async (...args) => {
    const slot = await network.setUp(...args);
    madeCount += 1;
    return slot;
  };
  return withReadySlots(
    { ...network, setUp },
    {
      size,
      ownerOf: () => OWNER,
      refillDelayMs: 1,
      onWarning: (message, cause) => void warnings.push({ message, cause }),
    },
  );
}

/** All that the kernel says of a slot, without what each has for itself. */
async function portrait(slot: NetworkSlot): Promise<string> {
  const inside = async (program: string, ...args: string[]) =>
    (await lab.run('nsenter', [`--net=/run/netns/${slot.netns}`, program, ...args], { timeoutMs: 5000 }))
      .stdout;
  const texts = [
    await inside('nft', 'list', 'ruleset'),
    await inside('ip', '-details', 'address'),
    await inside('ip', 'route'),
    await inside('ip', 'neighbour'),
    await inside('tc', 'qdisc'),
  ];
  return texts
    .join('\n')
    .replace(/counter packets \d+ bytes \d+/g, 'counter')
    .replace(/\b10\.117\.0\.\d+\b/g, '<address>')
    .replace(/link\/ether \S+( brd \S+ link-netns(id)? \S+)?/g, '<mac>')
    .replace(/(if|index |netnsid |qdisc \w+ )[0-9a-f]+:?/g, '$1');
}

const SPECS: readonly [string, SlotSpec][] = [
  ['nothing', OWNER],
  ['an open policy', { ...OWNER, rates: {}, egress: { allowed: [], refused: [] } }],
  ['rates', { ...OWNER, rates: { receiveBytesPerSecond: 1_000_000, transmitBytesPerSecond: 500_000 } }],
  [
    'a policy',
    {
      ...OWNER,
      egress: { allowed: [parseIpv4Range('192.0.2.0/24')], refused: [parseIpv4Range('0.0.0.0/0')] },
    },
  ],
];

it.each(SPECS)('with %s', async (_, spec) => {
  const network = readyNetwork(1);
  await network.start(new Set(), signal);
  const made = await network.setUp(network.reserve(), spec, signal);
  network.keepReady();
  await untilMade(2);
  const index = network.reserve();
  expect(await namespaces()).toContain(`namespace ${network.describe(index).netns}`);
  const ready = await network.setUp(index, spec, signal);
  expect(await portrait(ready)).toBe(await portrait(made));

  await Promise.all([made, ready].map((slot) => network.release(slot.index)));
  await network.stop();
  expect(await lab.inventory()).toEqual([]);
});

it('goes with its agent while others stay, or is taken away by the next one', async () => {
  const first = readyNetwork(2);
  await first.start(new Set(), signal);
  const used = await first.setUp(first.reserve(), OWNER, signal);
  first.keepReady();
  await untilMade(3);

  // As if the first had died.
  const second = readyNetwork(2);
  expect(await second.start(new Set([used.index]), signal)).toHaveLength(2);
  second.keepReady();
  await untilMade(5);
  await second.stop();
  expect(await namespaces()).toEqual([`namespace ${used.netns}`]);
  await second.release(used.index);
});
