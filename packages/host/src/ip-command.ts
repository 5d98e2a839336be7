/**
 * What `ip` is told, as typed commands. A command is a list of words, each checked, so that none can become
 * two words or two lines of a batch.
 */
import { WrennError } from '@wrenn/protocol';
import { formatIpv4, formatIpv4Range, type Ipv4, type Ipv4Range } from './ipv4.ts';

export interface IpCommand {
  readonly words: readonly string[];
}

/** IFNAMSIZ is 16, with the NUL at its end. */
const LINK_NAME = /^[A-Za-z][A-Za-z0-9_.-]{0,14}$/;
const NETNS_NAME = /^[A-Za-z][A-Za-z0-9_.-]{0,63}$/;
const ALIAS = /^[A-Za-z][A-Za-z0-9_.:-]{0,127}$/;
const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;
const ID_MAX = 2 ** 32 - 2;

export function checkLinkName(name: string): string {
  return checked('link name', LINK_NAME, name);
}

export function checkNetnsName(name: string): string {
  return checked('network namespace name', NETNS_NAME, name);
}

export function checkMac(mac: string): string {
  return checked('MAC address', MAC, mac);
}

export function addNetns(name: string): IpCommand {
  return { words: ['netns', 'add', checkNetnsName(name)] };
}

export function deleteNetns(name: string): IpCommand {
  return { words: ['netns', 'delete', checkNetnsName(name)] };
}

export interface VethSpec {
  readonly link: string;
  readonly peer: string;
  readonly peerNetns: string;
  readonly mtu: number;
}

/** A pair of links of which the peer begins its life in the other namespace. */
export function addVeth({ link, peer, peerNetns, mtu }: VethSpec): IpCommand {
  const size = checkWhole('MTU', mtu, 576, 65_535);
  const near = ['link', 'add', checkLinkName(link), 'mtu', size];
  const far = ['peer', 'name', checkLinkName(peer), 'mtu', size, 'netns', checkNetnsName(peerNetns)];
  return { words: [...near, 'type', 'veth', ...far] };
}

export interface TapSpec {
  readonly link: string;
  readonly uid: number;
  readonly gid: number;
}

/** A persistent TAP with one queue, which a process with both this uid and this gid may open. */
export function addTap({ link, uid, gid }: TapSpec): IpCommand {
  const owner = ['user', checkWhole('uid', uid, 1, ID_MAX), 'group', checkWhole('gid', gid, 1, ID_MAX)];
  return { words: ['tuntap', 'add', 'dev', checkLinkName(link), 'mode', 'tap', ...owner] };
}

export interface LinkChange {
  /** Stays with the link for as long as it lives: says who made it. The kernel takes none when it makes a link. */
  readonly alias?: string;
  readonly up?: boolean;
  readonly mac?: string;
  readonly mtu?: number;
  /** `none`: the kernel gives the link no IPv6 address by itself. */
  readonly ipv6AddressMode?: 'none' | 'eui64';
}

export function setLink(link: string, change: LinkChange): IpCommand {
  const words = ['link', 'set', 'dev', checkLinkName(link)];
  if (change.alias !== undefined) words.push('alias', checked('alias', ALIAS, change.alias));
  if (change.mac !== undefined) words.push('address', checkMac(change.mac));
  if (change.mtu !== undefined) words.push('mtu', checkWhole('MTU', change.mtu, 576, 65_535));
  if (change.ipv6AddressMode !== undefined) words.push('addrgenmode', change.ipv6AddressMode);
  if (change.up !== undefined) words.push(change.up ? 'up' : 'down');
  return { words };
}

export function deleteLink(link: string): IpCommand {
  return { words: ['link', 'delete', 'dev', checkLinkName(link)] };
}

export function addAddress(link: string, address: Ipv4, prefixLength: number): IpCommand {
  const value = `${formatIpv4(address)}/${checkWhole('prefix length', prefixLength, 0, 32)}`;
  return { words: ['address', 'add', value, 'dev', checkLinkName(link)] };
}

/** A neighbour that is never asked for and that nothing on the wire can change. */
export function addPermanentNeighbour(link: string, address: Ipv4, mac: string): IpCommand {
  const words = ['neighbour', 'add', formatIpv4(address), 'lladdr', checkMac(mac)];
  return { words: [...words, 'dev', checkLinkName(link), 'nud', 'permanent'] };
}

export function addDefaultRoute(via: Ipv4): IpCommand {
  return { words: ['route', 'add', 'default', 'via', formatIpv4(via)] };
}

/** Says of a route who made it: the protocol number which program, the metric which of its instances. */
export interface RouteMark {
  readonly protocol: number;
  readonly metric: number;
}

/** Packets to the range come back as unreachable, unless a narrower route leads somewhere. */
export function addUnreachableRoute(range: Ipv4Range, mark: RouteMark): IpCommand {
  return { words: ['route', 'add', ...unreachable(range, mark)] };
}

export function deleteUnreachableRoute(range: Ipv4Range, mark: RouteMark): IpCommand {
  return { words: ['route', 'delete', ...unreachable(range, mark)] };
}

function unreachable(range: Ipv4Range, { protocol, metric }: RouteMark): string[] {
  const mark = [
    'proto',
    checkWhole('protocol', protocol, 5, 255),
    'metric',
    checkWhole('metric', metric, 1, ID_MAX),
  ];
  return ['unreachable', formatIpv4Range(range), ...mark];
}

function checked(what: string, pattern: RegExp, text: string): string {
  if (pattern.test(text)) return text;
  throw new WrennError('invalid_argument', `${JSON.stringify(text.slice(0, 60))} is not a ${what}.`);
}

/** Throws `invalid_argument`. */
export function checkWhole(what: string, value: number, min: number, max: number): string {
  if (Number.isInteger(value) && value >= min && value <= max) return String(value);
  throw new WrennError('invalid_argument', `The ${what} must be a whole number from ${min} to ${max}.`);
}
