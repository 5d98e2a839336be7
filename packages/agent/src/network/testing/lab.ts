/**
 * A machine to test on, made of network namespaces: `host` with an uplink to `world`, which plays the internet
 * and everything private behind it, and a second link to `lan`. The network under test runs its programs inside
 * of `host`, so that the real machine's rules, routes and settings are never touched.
 */
import { randomBytes } from 'node:crypto';
import { access } from 'node:fs/promises';
import {
  addAddress,
  addDefaultRoute,
  addNetns,
  addPermanentNeighbour,
  addVeth,
  type CommandOptions,
  type CommandResult,
  createIp,
  createNetSysctl,
  createNft,
  createTc,
  deleteLink,
  deleteNetns,
  type IpCommand,
  netSysctlPath,
  parseIpv4,
  runCommand,
  setLink,
} from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, type NetworkConfig } from '../config.ts';
import type { NetworkHost } from '../host.ts';
import type { NetworkSlot } from '../slot.ts';
import {
  type Held,
  holdFrom,
  type Listener,
  listenIn,
  type Probe,
  type ProbeResult,
  probeIn,
} from './traffic.ts';

export type Run = (
  program: string,
  args: readonly string[],
  options: CommandOptions,
) => Promise<CommandResult>;

/** Every address that `world` has; the host's default route leads to all of them. */
export const WORLD = {
  internet: '203.0.113.10',
  privateTen: '10.66.0.1',
  privateNameserver: '10.66.0.53',
  private172: '172.20.0.1',
  private192: '192.168.7.1',
  carrier: '100.64.0.9',
  metadata: '169.254.169.254',
} as const;
export const HOST_PUBLIC = '198.51.100.2';
export const HOST_LAN = '192.0.2.2';
export const LAN_NEIGHBOUR = '192.0.2.1';
const WORLD_PUBLIC = '198.51.100.1';
const TIMEOUT_MS = 15_000;

export interface Lab {
  readonly hostNetns: string;
  readonly worldNetns: string;
  readonly lanNetns: string;
  readonly config: NetworkConfig;
  /** Runs a program on the lab's host. */
  readonly run: Run;
  /** The dependencies of the network under test; `wrap` may change how its programs run. */
  networkHost(wrap?: (run: Run) => Run): NetworkHost;
  /**
   * Puts a namespace in the guest's place, with a link that has the TAP's name and addresses. Returns its name. One whose
   * slot is gone can be put in another, as a guest that wakes up.
   */
  plugGuest(slot: NetworkSlot, woken?: string): Promise<string>;
  listen(netns: string, port: number): Promise<Listener>;
  /** A connection from the lab's host to a guest, which sends now and then. */
  hold(guest: string, address: string, port: number): Promise<Held>;
  probe(netns: string, probes: readonly Probe[]): Promise<ProbeResult[]>;
  ip(netns: string, commands: readonly IpCommand[]): Promise<void>;
  /** Everything of the prefix that there is: namespaces, links, tables, routes, and the uplinks' switches. */
  inventory(): Promise<string[]>;
  close(): Promise<void>;
}

export async function createLab(): Promise<Lab> {
  const id = randomBytes(2).toString('hex');
  const prefix = `t${id}`;
  const [hostNetns, worldNetns, lanNetns] = [`wrlab${id}host`, `wrlab${id}world`, `wrlab${id}lan`];
  const listeners: { close(): Promise<void> }[] = [];
  const guests: string[] = [];
  const run = runIn(hostNetns);
  const ip = createIp();

  await ip.batch([hostNetns, worldNetns, lanNetns].map(addNetns));
  await ip.batch([veth('eth0', worldNetns, 'eth0', 1400), veth('lan0', lanNetns, 'eth0', 1500)], {
    netns: hostNetns,
  });
  await ip.batch(
    [
      setLink('lo', { up: true }),
      address('eth0', HOST_PUBLIC, 24),
      address('lan0', HOST_LAN, 24),
      setLink('eth0', { up: true }),
      setLink('lan0', { up: true }),
      addDefaultRoute(parseIpv4(WORLD_PUBLIC)),
    ],
    { netns: hostNetns },
  );
  await ip.batch(
    [
      setLink('lo', { up: true }),
      ...Object.values(WORLD).map((value) => address('lo', value, 32)),
      address('eth0', WORLD_PUBLIC, 24),
      setLink('eth0', { up: true }),
      // So that whatever leaves the host could be answered, and everything can be tried from outside.
      addDefaultRoute(parseIpv4(HOST_PUBLIC)),
    ],
    { netns: worldNetns },
  );
  await ip.batch(
    [
      setLink('lo', { up: true }),
      address('eth0', LAN_NEIGHBOUR, 24),
      setLink('eth0', { up: true }),
      addDefaultRoute(parseIpv4(HOST_LAN)),
    ],
    { netns: lanNetns },
  );
  // A new namespace inherits the machine's setting.
  await createNetSysctl().writeIn(hostNetns, ['ipv4', 'ip_forward'], '0');

  return {
    hostNetns,
    worldNetns,
    lanNetns,
    config: { owner: `/nowhere/${id}`, range: '10.117.0.0/16', prefix, holdOffMs: 0 },
    run,
    networkHost: (wrap = (inner) => inner) => networkHostIn(wrap(run)),
    plugGuest: async (slot, woken) => {
      const netns = woken ?? `${hostNetns}g${slot.index}`;
      if (woken === undefined) {
        guests.push(netns);
        await ip.batch([addNetns(netns)]);
      }
      await ip.batch(
        [
          deleteLink(slot.tap),
          veth(slot.tap, netns, 'eth0', 1500),
          setLink(slot.tap, { mac: GATEWAY_MAC, ipv6AddressMode: 'none' }),
          addAddress(slot.tap, GATEWAY, 30),
          setLink(slot.tap, { up: true }),
          addPermanentNeighbour(slot.tap, GUEST, GUEST_MAC),
        ],
        { netns: slot.netns },
      );
      await ip.batch(
        [
          setLink('lo', { up: true }),
          setLink('eth0', { mac: slot.guestMac }),
          addAddress('eth0', GUEST, 30),
          setLink('eth0', { up: true }),
          addDefaultRoute(GATEWAY),
        ],
        { netns },
      );
      return netns;
    },
    listen: async (netns, port) => {
      const listener = await listenIn(netns, port);
      listeners.push(listener);
      return listener;
    },
    hold: async (guest, address, port) => {
      const held = await holdFrom(hostNetns, guest, address, port);
      listeners.push(held);
      return held;
    },
    probe: probeIn,
    ip: (netns, commands) => ip.batch(commands, { netns }),
    inventory: () => inventory(run, prefix),
    close: async () => {
      await Promise.all(listeners.map((listener) => listener.close()));
      const there = await ip.namespaces();
      const ours = [
        ...guests,
        hostNetns,
        worldNetns,
        lanNetns,
        ...there.filter((n) => n.startsWith(`${prefix}-`)),
      ];
      await ip.batch(ours.filter((name) => there.includes(name)).map(deleteNetns));
    },
  };
}

function veth(name: string, peerNetns: string, peer: string, mtu: number): IpCommand {
  return addVeth({ link: name, peer, peerNetns, mtu });
}

function address(link: string, value: string, prefixLength: number): IpCommand {
  return addAddress(link, parseIpv4(value), prefixLength);
}

export function runIn(netns: string): Run {
  return (program, args, options) =>
    runCommand('nsenter', [`--net=/run/netns/${netns}`, program, ...args], options);
}

function networkHostIn(run: Run): NetworkHost {
  return {
    ip: createIp(run),
    nft: createNft(run),
    tc: createTc(run),
    sysctl: {
      ...createNetSysctl(run),
      // /proc/sys/net shows the namespace of whoever opens it.
      read: async (name) => {
        try {
          return (await run('cat', [netSysctlPath(name)], { timeoutMs: TIMEOUT_MS })).stdout.trim();
        } catch (error) {
          if (error instanceof WrennError && error.message.includes('No such file')) return undefined;
          throw error;
        }
      },
      write: async (name, value) => {
        await run('tee', [netSysctlPath(name)], { timeoutMs: TIMEOUT_MS, input: value });
      },
    },
    exists: (path) =>
      access(path).then(
        () => true,
        () => false,
      ),
    now: () => performance.now(),
  };
}

async function inventory(run: Run, prefix: string): Promise<string[]> {
  const host = networkHostIn(run);
  const options = { timeoutMs: TIMEOUT_MS };
  const [namespaces, links, routes, tables, eth0, lan0, all] = await Promise.all([
    host.ip.namespaces(),
    host.ip.links(),
    run('ip', ['route', 'show', 'table', 'all', 'root', '10.0.0.0/8'], options),
    run('nft', ['list', 'tables'], options),
    host.sysctl.read(['ipv4', 'conf', 'eth0', 'forwarding']),
    host.sysctl.read(['ipv4', 'conf', 'lan0', 'forwarding']),
    host.sysctl.read(['ipv4', 'ip_forward']),
  ]);
  return [
    ...namespaces.filter((name) => name.startsWith(`${prefix}-`)).map((name) => `namespace ${name}`),
    ...links.filter(({ name }) => name.startsWith(`${prefix}-`)).map(({ name }) => `link ${name}`),
    ...routes.stdout
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => `route ${line.trim()}`),
    ...tables.stdout.split('\n').filter((line) => line !== ''),
    ...[`eth0 ${eth0}`, `lan0 ${lan0}`, `all ${all}`]
      .filter((line) => !line.endsWith(' 0'))
      .map((line) => `forwarding ${line}`),
  ];
}
