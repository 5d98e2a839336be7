/** The words that rules are made of, in the shapes of libnftables-json(5). Only those that Wrenn uses. */
import { formatIpv4, type Ipv4, type Ipv4Range } from './ipv4.ts';

export type NftValue =
  | string
  | number
  | boolean
  | { readonly prefix: { readonly addr: string; readonly len: number } }
  | { readonly set: readonly NftValue[] }
  | readonly string[];

type NftLeft =
  | { readonly meta: { readonly key: 'iifname' | 'oifname' | 'nfproto' | 'l4proto' | 'skuid' } }
  | { readonly payload: { readonly protocol: string; readonly field: string } }
  | { readonly ct: { readonly key: 'state' | 'status' | 'direction' } }
  | { readonly fib: { readonly result: 'oif' | 'type'; readonly flags: readonly string[] } }
  | { readonly '&': readonly [NftLeft, NftValue] };

export type NftStatement =
  | { readonly match: { readonly op: '==' | '!=' | 'in'; readonly left: NftLeft; readonly right: NftValue } }
  | { readonly accept: null }
  | { readonly drop: null }
  | {
      readonly reject:
        | { readonly type: 'icmp'; readonly expr: 'admin-prohibited' }
        | { readonly type: 'tcp reset' };
    }
  | { readonly masquerade: null }
  | { readonly snat: { readonly family: 'ip'; readonly addr: string } }
  | { readonly dnat: { readonly family: 'ip'; readonly addr: string } }
  | { readonly redirect: null }
  | { readonly 'ct count': { readonly val: number; readonly inv: true } }
  | {
      readonly limit: {
        readonly rate: number;
        readonly per: 'second';
        readonly burst: number;
        readonly inv: true;
      };
    }
  | { readonly mangle: { readonly key: object; readonly value: object } };

/** Where chains hang among those of others, by the kernel's names. */
export const NFT_PRIORITY = { raw: -300, mangle: -150, dstnat: -100, filter: 0, srcnat: 100 } as const;

export const accept: NftStatement = { accept: null };
export const drop: NftStatement = { drop: null };
/** The sender learns at once that this is not allowed, in place of waiting. */
export const reject: NftStatement = { reject: { type: 'icmp', expr: 'admin-prohibited' } };
/** For packets of TCP: the sender learns that there is no such connection, and ends its own half of it. */
export const reset: NftStatement = { reject: { type: 'tcp reset' } };
export const masquerade: NftStatement = { masquerade: null };

export function snatTo(address: Ipv4): NftStatement {
  return { snat: { family: 'ip', addr: formatIpv4(address) } };
}

export function dnatTo(address: Ipv4): NftStatement {
  return { dnat: { family: 'ip', addr: formatIpv4(address) } };
}

/** To the same port of this machine's own address on the link by which it came. */
export const redirect: NftStatement = { redirect: null };

/** A link's name, or the beginning of one with `*` behind it. */
export function cameFrom(link: string): NftStatement {
  return is({ meta: { key: 'iifname' } }, link);
}

export function cameFromOther(link: string): NftStatement {
  return isNot({ meta: { key: 'iifname' } }, link);
}

export function goesTo(link: string): NftStatement {
  return is({ meta: { key: 'oifname' } }, link);
}

export function goesToOther(link: string): NftStatement {
  return isNot({ meta: { key: 'oifname' } }, link);
}

/** By a link that is in a named set of the same table. */
export function cameFromSet(set: string): NftStatement {
  return is({ meta: { key: 'iifname' } }, `@${set}`);
}

export function goesToSet(set: string): NftStatement {
  return is({ meta: { key: 'oifname' } }, `@${set}`);
}

export const isIpv4: NftStatement = is({ meta: { key: 'nfproto' } }, 'ipv4');
export const isNotIpv4: NftStatement = isNot({ meta: { key: 'nfproto' } }, 'ipv4');

export function from(source: Ipv4 | Ipv4Range): NftStatement {
  return is({ payload: { protocol: 'ip', field: 'saddr' } }, addressValue(source));
}

export function to(destination: Ipv4): NftStatement {
  return is({ payload: { protocol: 'ip', field: 'daddr' } }, addressValue(destination));
}

export function toAnyOf(destinations: readonly Ipv4[]): NftStatement {
  return is({ payload: { protocol: 'ip', field: 'daddr' } }, { set: destinations.map(addressValue) });
}

export function toNoneOf(destinations: readonly Ipv4[]): NftStatement {
  return isNot({ payload: { protocol: 'ip', field: 'daddr' } }, { set: destinations.map(addressValue) });
}

/** In a named set of the same table. */
export function toSet(set: string): NftStatement {
  return is({ payload: { protocol: 'ip', field: 'daddr' } }, `@${set}`);
}

export function notToSet(set: string): NftStatement {
  return isNot({ payload: { protocol: 'ip', field: 'daddr' } }, `@${set}`);
}

export function fromMac(mac: string): NftStatement {
  return is({ payload: { protocol: 'ether', field: 'saddr' } }, mac);
}

/** What an ARP packet says of its sender. */
export function arpFrom(address: Ipv4, mac: string): NftStatement[] {
  return [
    is({ payload: { protocol: 'arp', field: 'saddr ip' } }, formatIpv4(address)),
    is({ payload: { protocol: 'arp', field: 'saddr ether' } }, mac),
  ];
}

export function toPort(port: number): NftStatement[] {
  return [
    is({ meta: { key: 'l4proto' } }, { set: ['tcp', 'udp'] }),
    is({ payload: { protocol: 'th', field: 'dport' } }, port),
  ];
}

export function toTcpPorts(ports: readonly number[]): NftStatement[] {
  return [
    is({ meta: { key: 'l4proto' } }, 'tcp'),
    is({ payload: { protocol: 'th', field: 'dport' } }, { set: [...ports] }),
  ];
}

/** To another port, of protocols that have ports. */
export function toOtherPort(port: number): NftStatement[] {
  return [
    is({ meta: { key: 'l4proto' } }, { set: ['tcp', 'udp'] }),
    isNot({ payload: { protocol: 'th', field: 'dport' } }, port),
  ];
}

/** Of a protocol that has no ports. */
export const isNeitherTcpNorUdp: NftStatement = isNot({ meta: { key: 'l4proto' } }, { set: ['tcp', 'udp'] });

/** By a process of this user of this machine. What the kernel sends by itself (resets, ICMP) is of nobody, not of others. */
export function sentBy(uid: number): NftStatement {
  return is({ meta: { key: 'skuid' } }, uid);
}

/** Of a connection that was allowed when it began, or an error that concerns one. */
export const belongsToConnection: NftStatement = {
  match: { op: 'in', left: { ct: { key: 'state' } }, right: ['established', 'related'] },
};
export const isInvalid: NftStatement = {
  match: { op: 'in', left: { ct: { key: 'state' } }, right: 'invalid' },
};
/** From whoever began the connection, and no answer. */
export const isNoAnswer: NftStatement = is({ ct: { key: 'direction' } }, 'original');
export const beginsConnection: NftStatement = {
  match: { op: 'in', left: { ct: { key: 'state' } }, right: 'new' },
};
/** Its destination was changed by a `dnat` rule. */
export const wasDnatted: NftStatement = {
  match: { op: 'in', left: { ct: { key: 'status' } }, right: 'dnat' },
};

/** More connections than that are open which this rule has seen. */
export function moreConnectionsThan(count: number): NftStatement {
  return { 'ct count': { val: count, inv: true } };
}

/** More packets in a second than that have come to this rule, and more than `burst` at once. */
export function moreOftenThan(perSecond: number, burst: number): NftStatement {
  return { limit: { rate: perSecond, per: 'second', burst, inv: true } };
}

/** An answer to the source address would not leave by the link by which this came. */
export const hasForeignSource: NftStatement = is({ fib: { result: 'oif', flags: ['saddr', 'iif'] } }, false);

/** Not sent by this machine itself. */
export const isForwarded: NftStatement = isNot({ fib: { result: 'type', flags: ['saddr'] } }, 'local');

/** Not to another machine: to an address of this one, a broadcast, a multicast. */
export const isNotUnicast: NftStatement = isNot({ fib: { result: 'type', flags: ['daddr'] } }, 'unicast');

/** Of TCP, in the middle of a connection. */
export const continuesTcp: NftStatement = is(
  { '&': [{ payload: { protocol: 'tcp', field: 'flags' } }, ['syn', 'rst']] },
  0,
);

/** In connections that begin, tells both sides how large a packet the route can carry. */
export const clampMaxSegment: readonly NftStatement[] = [
  is({ '&': [{ payload: { protocol: 'tcp', field: 'flags' } }, ['syn', 'rst']] }, 'syn'),
  {
    mangle: { key: { 'tcp option': { name: 'maxseg', field: 'size' } }, value: { rt: { key: 'mtu' } } },
  },
];

export function addressValue(value: Ipv4 | Ipv4Range): NftValue {
  if (typeof value === 'number') return formatIpv4(value);
  return { prefix: { addr: formatIpv4(value.address), len: value.prefixLength } };
}

function is(left: NftLeft, right: NftValue): NftStatement {
  return { match: { op: '==', left, right } };
}

function isNot(left: NftLeft, right: NftValue): NftStatement {
  return { match: { op: '!=', left, right } };
}
