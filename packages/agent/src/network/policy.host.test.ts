/** What a guest may reach and what may reach it: tried with real packets, from inside. */
import { addAddress, type Ipv4Range, parseIpv4, parseIpv4Range, rangeAround, setLink } from '@wrenn/host';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createNetwork } from './network.ts';
import type { Network, NetworkSlot } from './slot.ts';
import { createLab, HOST_LAN, HOST_PUBLIC, LAN_NEIGHBOUR, type Lab, WORLD } from './testing/lab.ts';
import type { Listener, Probe } from './testing/traffic.ts';

const PORT = 7000;
const DNS = 53;
const OWNER = { uid: 54_321, gid: 54_321 };
const REACHED_WITHIN_MS = 8000;
/** Less than the kernel waits for a neighbour that does not answer. */
const AT_ONCE_MS = 2000;
const signal = new AbortController().signal;

const tcp = (address: string, port = PORT): Probe => ({ kind: 'tcp', address, port });
const udp = (address: string, port = PORT): Probe => ({ kind: 'udp', address, port });
const both = (address: string, port = PORT): Probe[] => [tcp(address, port), udp(address, port)];

let lab: Lab;
let network: Network;
let slot: NetworkSlot;
let other: NetworkSlot;
let guest: string;
let otherGuest: string;
let world: Listener;

beforeAll(async () => {
  lab = await createLab();
  network = createNetwork({ ...lab.config, nameservers: [WORLD.privateNameserver] }, lab.networkHost());
  await network.start(new Set(), signal);
  slot = await network.setUp(network.reserve(), OWNER, signal);
  other = await network.setUp(network.reserve(), OWNER, signal);
  guest = await lab.plugGuest(slot);
  otherGuest = await lab.plugGuest(other);
  world = await lab.listen(lab.worldNetns, PORT);
  await lab.listen(lab.worldNetns, DNS);
  await lab.listen(lab.hostNetns, PORT);
  await lab.listen(guest, PORT);
  await lab.listen(otherGuest, PORT);
});

afterAll(() => lab.close());

/** All of them must fail; the results name those that did not. */
async function expectUnreachable(netns: string, probes: readonly Probe[]): Promise<void> {
  const results = await lab.probe(netns, probes);
  const reached = probes.filter((_, index) => !('failed' in (results[index] ?? {})));
  expect(reached).toEqual([]);
}

async function expectSeenAs(netns: string, probes: readonly Probe[], address: string): Promise<void> {
  const patient = probes.map((probe) => ({ ...probe, timeoutMs: REACHED_WITHIN_MS }));
  expect(await lab.probe(netns, patient)).toEqual(probes.map(() => ({ seenAs: address })));
}

describe('from a guest', () => {
  it('the outside is reached, under the address of the host', async () => {
    await expectSeenAs(guest, both(WORLD.internet), HOST_PUBLIC);
  });

  it('private ranges and the metadata service are not, though the host reaches them', async () => {
    const { internet: _, ...denied } = WORLD;
    const probes = Object.values(denied).flatMap((address) => both(address));
    await expectSeenAs(lab.hostNetns, probes, HOST_PUBLIC);
    await expectUnreachable(guest, probes);
  });

  it('a denied destination is refused at once and not after a wait', async () => {
    const [result] = await lab.probe(guest, [{ ...tcp(WORLD.private192), timeoutMs: AT_ONCE_MS }]);
    expect(result).toEqual({ failed: 'EHOSTUNREACH' });
  });

  it("no address of the host's is", async () => {
    const hostEnd = '10.117.0.0';
    await expectSeenAs(lab.hostNetns, [tcp(hostEnd)], hostEnd);
    await expectUnreachable(
      guest,
      [HOST_PUBLIC, HOST_LAN, hostEnd, '10.117.0.2'].flatMap((a) => both(a)),
    );
  });

  it('no other guest is, nor its own namespace', async () => {
    const inside = await lab.listen(slot.netns, PORT + 1);
    const probes = [both(other.address), both('169.254.0.22', PORT + 1), both(slot.address, PORT + 1)].flat();
    await expectUnreachable(guest, probes);
    expect(inside.seen).toEqual([]);
  });

  it('a private name server is reached on port 53 alone, when it was named', async () => {
    await expectSeenAs(guest, both(WORLD.privateNameserver, DNS), HOST_PUBLIC);
    await expectUnreachable(guest, [...both(WORLD.privateNameserver), ...both(WORLD.privateTen, DNS)]);
  });

  it('nothing leaves with a source address that is not its own', async () => {
    await lab.ip(guest, [addAddress('eth0', parseIpv4('203.0.113.99'), 32)]);
    await lab.ip(guest, [addAddress('eth0', parseIpv4('10.117.0.3'), 32)]);
    const before = world.seen.length;
    await expectUnreachable(
      guest,
      ['203.0.113.99', '10.117.0.3'].flatMap((source) =>
        both(WORLD.internet).map((probe) => ({ ...probe, source })),
      ),
    );
    expect(world.seen.slice(before)).toEqual([]);
  });

  it('nothing leaves with another MAC address', async () => {
    await lab.ip(guest, [setLink('eth0', { mac: '02:00:00:00:00:99' })]);
    try {
      await expectUnreachable(guest, both(WORLD.internet));
    } finally {
      await lab.ip(guest, [setLink('eth0', { mac: slot.guestMac })]);
    }
    await expectSeenAs(guest, [tcp(WORLD.internet)], HOST_PUBLIC);
  });

  it('nothing leaves over IPv6, even where there are addresses for it', async () => {
    const address = (netns: string, link: string, value: string) =>
      lab.ip(netns, [{ words: ['address', 'add', value, 'dev', link, 'nodad'] }]);
    await address(slot.netns, slot.tap, 'fd00:1::1/64');
    await address(guest, 'eth0', 'fd00:1::2/64');
    const inside = await lab.listen(slot.netns, PORT + 2);
    await expectUnreachable(guest, both('fd00:1::1', PORT + 2));
    expect(inside.seen).toEqual([]);
  });
});

it('a guest that wakes up in another namespace learns at once that its connections are gone', async () => {
  const former = await network.setUp(network.reserve(), OWNER, signal);
  const woken = await lab.plugGuest(former);
  const held = await lab.hold(woken, former.address, PORT);
  await network.release(former.index);
  const next = await network.setUp(network.reserve(), OWNER, signal);
  await lab.plugGuest(next, woken);
  expect(await held.ended).toBe('ECONNRESET');
  // Those that it begins are still not answered there.
  await expectUnreachable(woken, both('169.254.0.22'));
  await network.release(next.index);
});

describe('with rules of its own, a guest', () => {
  const everywhere = parseIpv4Range('0.0.0.0/0');
  const world10 = rangeAround(parseIpv4(WORLD.internet), 32);
  const internet = both(WORLD.internet);
  const set = (allowed: Ipv4Range[], refused: Ipv4Range[]) =>
    network.setEgress(slot.index, { allowed, refused }, signal);
  afterAll(() => set([], []));

  it('reaches what is not refused, and what is allowed although it is', async () => {
    await set([], [everywhere]);
    await expectUnreachable(guest, [...internet, ...both(WORLD.privateNameserver, DNS)]);
    await set([world10], [everywhere]);
    await expectSeenAs(guest, internet, HOST_PUBLIC);
    await set([], [world10]);
    await expectUnreachable(guest, internet);
    await expectSeenAs(guest, both(WORLD.privateNameserver, DNS), HOST_PUBLIC);
    await set([], []);
    await expectSeenAs(guest, internet, HOST_PUBLIC);
  });

  it('still answers the host, and its rules are its alone', async () => {
    await set([], [everywhere]);
    await expectSeenAs(lab.hostNetns, both(slot.address), '169.254.0.22');
    await expectSeenAs(otherGuest, internet, HOST_PUBLIC);
  });

  it('is allowed nothing that is denied to all', async () => {
    await set([everywhere], [everywhere]);
    await expectUnreachable(guest, [...both(WORLD.privateTen), ...both(WORLD.metadata), ...both(HOST_LAN)]);
    await expectSeenAs(guest, internet, HOST_PUBLIC);
  });

  it('has them from its first packet on when it is set up with them', async () => {
    const egress = { allowed: [], refused: [everywhere] };
    const closed = await network.setUp(network.reserve(), { ...OWNER, egress }, signal);
    await expectUnreachable(await lab.plugGuest(closed), internet);
  });
});

describe('from inside of the namespace, as a VMM that was broken into', () => {
  it('nothing is reached', async () => {
    const probes = [WORLD.internet, WORLD.metadata, HOST_PUBLIC, '10.117.0.0', other.address];
    await expectUnreachable(
      slot.netns,
      probes.flatMap((address) => both(address)),
    );
  });

  it('the host denies by itself, when the rules of the namespace are gone', async () => {
    await lab.run('nsenter', [`--net=/run/netns/${other.netns}`, 'nft', 'flush', 'ruleset'], {
      timeoutMs: 5000,
    });
    await expectSeenAs(other.netns, [tcp(WORLD.internet)], HOST_PUBLIC);
    const { internet: _, privateNameserver: __, ...denied } = WORLD;
    const probes = [
      ...Object.values(denied),
      HOST_PUBLIC,
      HOST_LAN,
      '10.117.0.0',
      '10.117.0.2',
      slot.address,
    ];
    await expectUnreachable(
      other.netns,
      probes.flatMap((address) => both(address)),
    );
  });
});

describe('to a guest', () => {
  it('the host gets through on any port, and is seen as the gateway', async () => {
    await expectSeenAs(lab.hostNetns, both(slot.address), '169.254.0.22');
  });

  it('another machine does not, even with a route', async () => {
    await expectUnreachable(lab.worldNetns, both(slot.address));
  });

  it('an address that nobody has is unreachable at once', async () => {
    const [result] = await lab.probe(lab.hostNetns, [{ ...tcp('10.117.200.1'), timeoutMs: AT_ONCE_MS }]);
    expect(result).toEqual({ failed: 'EHOSTUNREACH' });
  });
});

describe('what is let forward for the sake of guests', () => {
  it('forwards nothing else', async () => {
    const neighbour = await lab.listen(lab.lanNetns, PORT);
    await lab.probe(lab.worldNetns, [udp(LAN_NEIGHBOUR)]);
    expect(neighbour.seen).toEqual([]);
    // It is our rule that keeps it so, as the uplink does forward.
    await lab.run('nft', ['flush', 'chain', 'inet', `${lab.config.prefix}_slots`, 'between'], {
      timeoutMs: 5000,
    });
    await lab.probe(lab.worldNetns, [udp(LAN_NEIGHBOUR)]);
    await expect.poll(() => neighbour.seen).toHaveLength(1);
  });
});
