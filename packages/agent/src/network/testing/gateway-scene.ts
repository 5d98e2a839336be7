/** A guest that may reach hosts by name: in the lab, with the gateway as a process, and an internet that tells what came. */
import { parseIpv4Range, processesOfUser } from '@wrenn/host';
import { afterAll, beforeAll, expect } from 'vitest';
import { createEgressGateway } from '../gateway/supervisor.ts';
import { createNetwork, deniedToGuests } from '../network.ts';
import type { NamedEgress, Network, NetworkSlot, SlotEgress } from '../slot.ts';
import { bundleGateway } from './gateway-program.ts';
import { type Ask, ask, type Heard, type Internet, type Names, startInternet } from './internet.ts';
import { createLab, HOST_LAN, HOST_PUBLIC, type Lab, WORLD } from './lab.ts';

export const OWNER = { uid: 54_321, gid: 54_321 };
/** The same in each file: they run one after the other. */
export const GATEWAY_UID = 1_969_999_998;
export const RESOLVER = WORLD.privateNameserver;
export const HEAD_MS = 3000;
export const MAX_CONNECTIONS = 12;
export const EVERYWHERE = parseIpv4Range('0.0.0.0/0');

/** Those below allowed.net lead to where no guest may go, or to nobody. */
const NAMES: Names = {
  'example.com': [WORLD.internet],
  'www.example.org': [WORLD.internet],
  'evil.example': [WORLD.internet],
  'private.allowed.net': [WORLD.privateTen],
  'metadata.allowed.net': [WORLD.metadata],
  'self.allowed.net': ['127.0.0.1'],
  'host.allowed.net': [HOST_PUBLIC],
  'lan.allowed.net': [HOST_LAN],
  'guest.allowed.net': ['10.117.0.3'],
  'mixed.allowed.net': [WORLD.privateTen, WORLD.internet],
  'dead.allowed.net': ['198.51.100.77'],
};

export interface GatewayScene {
  lab: Lab;
  internet: Internet;
  network: Network;
  /** The slot of the guest that asks. */
  slot: NetworkSlot;
  /** The namespace in that guest's place. */
  guest: string;
  /** What was warned of the gateway. */
  warnings: string[];
}

/** Rules that refuse everything but hosts of these names. */
export const named = (names: readonly string[], more: Partial<NamedEgress> = {}): SlotEgress => ({
  allowed: [],
  refused: [EVERYWHERE],
  named: { names, ...more },
});

/** The text of a request. */
export const get = (host: string, path = '/', more = ''): string =>
  `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`;

/** Made once for all tests of a file. */
export function useGatewayScene() {
  const scene = {} as GatewayScene;
  const signal = new AbortController().signal;
  const releases: (() => Promise<void>)[] = [];

  beforeAll(async () => {
    const lab = await createLab();
    releases.push(() => lab.close());
    const program = await bundleGateway();
    releases.push(() => program.remove());
    const internet = await startInternet(lab.worldNetns, RESOLVER, NAMES);
    releases.push(() => internet.close());

    const warnings: string[] = [];
    const config = { ...lab.config, nameservers: [RESOLVER], gatewayUid: GATEWAY_UID };
    const gateway = createEgressGateway({
      settings: {
        uid: GATEWAY_UID,
        denied: deniedToGuests(config),
        resolvers: [RESOLVER],
        connectMs: 4000,
        limits: { maxConnections: MAX_CONNECTIONS, headMs: HEAD_MS, maxHeadBytes: 16_384, idleMs: 60_000 },
      },
      command: program.command,
      wrapper: ['nsenter', `--net=/run/netns/${lab.hostNetns}`],
      onWarning: (message) => warnings.push(message),
    });
    const network = createNetwork(config, lab.networkHost(), gateway);
    releases.push(() => network.stop());
    await network.start(new Set(), signal);

    const setUp = async (egress?: SlotEgress): Promise<NetworkSlot> => {
      const index = network.reserve();
      releases.push(() => network.release(index));
      return await network.setUp(index, { ...OWNER, ...(egress && { egress }) }, signal);
    };
    const slot = await setUp(named(['example.com']));
    const other = await setUp();
    const guest = await lab.plugGuest(slot);
    // Where no name may lead, though somebody is there.
    await lab.listen(lab.hostNetns, 80);
    await lab.listen(await lab.plugGuest(other), 80);
    Object.assign(scene, { lab, internet, network, slot, guest, warnings });
  });

  afterAll(async () => {
    for (const release of releases.reverse()) await release();
  });

  return {
    scene,
    /** Replaces what the guest may reach. */
    set: (names: readonly string[], more: Partial<NamedEgress> = {}): Promise<void> =>
      scene.network.setEgress(scene.slot.index, named(names, more), signal),
    setRules: (rules: SlotEgress): Promise<void> => scene.network.setEgress(scene.slot.index, rules, signal),
    /** From the guest. */
    ask: (what: Ask): Promise<Heard> => ask(scene.guest, what),
    /** The same for one plain request. */
    asked: (host: string, more: Partial<Ask> = {}): Promise<Heard> =>
      ask(scene.guest, { send: [get(host, '/', 'Connection: close\r\n')], ...more }),
    /** Of those who ask: that they have been heard. */
    seenSince: async (before: number, ...lines: string[]): Promise<void> => {
      await expect.poll(() => scene.internet.seen.slice(before)).toEqual(expect.arrayContaining(lines));
    },
    gatewayPid: async (): Promise<number> => {
      const [found, ...others] = await processesOfUser(GATEWAY_UID);
      expect(others).toEqual([]);
      return found?.pid ?? 0;
    },
  };
}
