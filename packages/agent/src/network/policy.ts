/**
 * What packets may go where, as rules. Two places, so that neither has to be trusted alone: a table in each
 * slot's namespace, which no program on the host ever flushes, and one table on the host for all slots, which
 * also holds when a VMM has been broken into and sends packets from inside of the namespace.
 *
 * Deny by default: the namespace lets in only what is named here, the host lets nothing out of a slot to itself
 * or to a denied range. On the host only packets from and to our own links are judged.
 */
import {
  type Ipv4Range,
  mergeRanges,
  type NftChain,
  type NftSet,
  type NftTable,
  nftRule as rule,
} from '@wrenn/host';
import {
  DENIED_RANGES,
  GATEWAY,
  GUEST,
  GUEST_MAC,
  GUEST_TAP_NAME,
  linkPattern,
  type NetworkPlan,
  type SlotAddresses,
  UPLINK_NAME,
} from './config.ts';
import type { NamedEgress, SlotEgress } from './slot.ts';

/** Names of sets; their elements are read back by a later agent. */
export const OPENED_SET = 'opened';
export const CLOSED_SET = 'closed';
const DENIED_SET = 'denied';
const ALLOWED_SET = 'allowed';
const REFUSED_SET = 'refused';

const OPEN: SlotEgress = { allowed: [], refused: [] };

/** Flows a sandbox may have open at once: the host's connection tracking is shared by all. */
const MAX_CONNECTIONS = 8192;
/** And to the gateway, which has a bound of its own below this. */
const MAX_GATEWAY_CONNECTIONS = 1024;
/**
 * New ones in a second, and at once: what accepting one costs the gateway, it costs all sandboxes. Beyond that they are
 * dropped, so that the guest tries again a second later.
 */
const GATEWAY_CONNECTIONS_PER_SECOND = 100;
const GATEWAY_CONNECTIONS_BURST = 256;
const DNS_PORT = 53;
const NAMED_PORTS = [80, 443];
const { raw, mangle, dstnat, filter, srcnat } = rule.NFT_PRIORITY;

type Statements = readonly rule.NftStatement[];

/** The tables in a slot's namespace. */
export function slotTables(
  plan: NetworkPlan,
  { host, guest }: SlotAddresses,
  { allowed, refused, named }: SlotEgress = OPEN,
): NftTable[] {
  const fromGuest = rule.cameFrom(GUEST_TAP_NAME);
  const fromHost = rule.cameFrom(UPLINK_NAME);
  return [
    {
      family: 'inet',
      name: 'slot',
      sets: [deniedSet(plan), rangeSet(ALLOWED_SET, allowed), rangeSet(REFUSED_SET, refused)],
      chains: [
        // Nothing but IPv4, and from the guest only with the guest's own addresses.
        chain('arriving', 'filter', 'prerouting', raw, 'drop', [
          [fromGuest, rule.isIpv4, rule.fromMac(GUEST_MAC), rule.from(GUEST), rule.accept],
          [fromHost, rule.isIpv4, rule.accept],
        ]),
        // Only what the host itself sends: a late packet to the address's last owner ends here.
        chain('to_guest', 'nat', 'prerouting', dstnat, 'accept', [
          [fromHost, rule.from(host), rule.to(guest), rule.dnatTo(GUEST)],
          // What would be refused goes to the gateway, which listens here and asks for a name.
          ...(named === undefined
            ? []
            : [[fromGuest, ...isRefused, ...rule.toTcpPorts(NAMED_PORTS), rule.redirect]]),
        ]),
        chain('forward', 'filter', 'forward', filter, 'drop', [
          rule.clampMaxSegment,
          // Each packet, so that a connection ends when it is forbidden; answers to the host's own are none of it.
          ...exceptNameservers(plan, named).map((condition) => [
            fromGuest,
            rule.isNoAnswer,
            ...isRefused,
            ...condition,
            rule.reject,
          ]),
          [rule.belongsToConnection, rule.accept],
          [rule.isInvalid, rule.drop],
          [fromHost, rule.goesTo(GUEST_TAP_NAME), rule.wasDnatted, rule.accept],
          // Only the way from the guest to the host is left.
          [rule.cameFromOther(GUEST_TAP_NAME), rule.drop],
          [rule.goesToOther(UPLINK_NAME), rule.drop],
          [rule.beginsConnection, rule.moreConnectionsThan(MAX_CONNECTIONS), rule.reject],
          ...nameserverRules(plan),
          [rule.toSet(DENIED_SET), rule.reject],
          [rule.accept],
        ]),
        // The host sees the slot's address alone, the guest its gateway alone.
        chain('addresses', 'nat', 'postrouting', srcnat, 'accept', [
          [rule.goesTo(UPLINK_NAME), rule.snatTo(guest)],
          [rule.goesTo(GUEST_TAP_NAME), rule.snatTo(GATEWAY)],
        ]),
        // The namespace itself talks to nobody: only errors about the guest's own packets leave it.
        chain('input', 'filter', 'input', filter, 'drop', [
          ...(named === undefined ? [] : gatewayRules(fromGuest)),
          // Of a connection that the guest had in another namespace, before it slept or was copied: else it would send again
          // for a quarter of an hour, and what it sends of would wait for as long.
          [fromGuest, rule.continuesTcp, rule.reset],
        ]),
        chain('output', 'filter', 'output', filter, 'drop', [[rule.belongsToConnection, rule.accept]]),
      ],
    },
    {
      family: 'arp',
      name: 'slot',
      sets: [],
      chains: [
        chain('arriving', 'filter', 'input', filter, 'drop', [
          [fromGuest, ...rule.arpFrom(GUEST, GUEST_MAC), rule.accept],
          [fromHost, rule.accept],
        ]),
      ],
    },
  ];
}

/** To the gateway, which listens in the namespace where names are allowed. */
const gatewayRules = (fromGuest: rule.NftStatement): Statements[] => [
  [
    fromGuest,
    rule.beginsConnection,
    rule.moreOftenThan(GATEWAY_CONNECTIONS_PER_SECOND, GATEWAY_CONNECTIONS_BURST),
    rule.drop,
  ],
  [fromGuest, rule.beginsConnection, rule.moreConnectionsThan(MAX_GATEWAY_CONNECTIONS), rule.reject],
  [fromGuest, ...rule.toTcpPorts(NAMED_PORTS), rule.wasDnatted, rule.accept],
];

const isRefused: Statements = [rule.toSet(REFUSED_SET), rule.notToSet(ALLOWED_SET)];

/**
 * What must be true besides, of what is refused, for it to be so: nothing; or, where names are allowed, that it is no
 * question to a name server. One condition for each rule.
 */
function exceptNameservers({ nameservers }: NetworkPlan, named: NamedEgress | undefined): Statements[] {
  if (named === undefined || nameservers.length === 0) return [[]];
  return [[rule.toNoneOf(nameservers)], rule.toOtherPort(DNS_PORT), [rule.isNeitherTcpNorUdp]];
}

export interface Uplinks {
  /** Links that did not forward until the agent let them. */
  readonly opened: readonly string[];
  /** Links, the opened ones among them, between which nothing was forwarded before. */
  readonly closed: readonly string[];
}

/** The host's table for all slots. `comment` says whose it is. */
export function hostTable(plan: NetworkPlan, uplinks: Uplinks, comment: string): NftTable {
  const ours = linkPattern(plan);
  // Before any other program's DNAT can lead a packet elsewhere, and for host and forwarding alike.
  const fromGuests = chain('from_guests', 'filter', 'prerouting', mangle, 'accept', [
    [rule.cameFromOther(ours), rule.accept],
    [rule.isNotIpv4, rule.drop],
    [rule.hasForeignSource, rule.drop],
    [rule.belongsToConnection, rule.accept],
    [rule.isInvalid, rule.drop],
    ...nameserverRules(plan),
    [rule.toSet(DENIED_SET), rule.drop],
    [rule.isNotUnicast, rule.reject],
  ]);
  return {
    family: 'inet',
    name: plan.tableName,
    sets: [
      deniedSet(plan),
      { name: OPENED_SET, type: 'ifname', interval: false, elements: uplinks.opened },
      { name: CLOSED_SET, type: 'ifname', interval: false, elements: uplinks.closed },
    ],
    chains: [
      withComment(fromGuests, comment),
      chain('between', 'filter', 'forward', filter, 'accept', [
        // Other machines do not reach guests through this one, nor do guests each other.
        [rule.goesTo(ours), rule.belongsToConnection, rule.accept],
        [rule.goesTo(ours), rule.drop],
        // What we let forward for the guests' sake still forwards nothing else.
        [rule.cameFromSet(OPENED_SET), rule.goesToSet(CLOSED_SET), rule.drop],
      ]),
      // The gateway judges by itself whom it connects to; should it be broken into, it is judged here.
      ...(plan.gatewayUid === undefined ? [] : [gatewayChain(plan.gatewayUid)]),
      chain('masquerade', 'nat', 'postrouting', srcnat, 'accept', [
        [rule.from(plan.range), rule.isForwarded, rule.goesToOther(ours), rule.masquerade],
      ]),
    ],
  };
}

function gatewayChain(uid: number): NftChain {
  const judged: Statements[] = [
    // The machine's resolver may be anywhere, and is often the machine itself.
    [...rule.toPort(DNS_PORT), rule.accept],
    [rule.isNotIpv4, rule.drop],
    [rule.toSet(DENIED_SET), rule.reject],
    [rule.isNotUnicast, rule.reject],
  ];
  // Each names the gateway: a packet of no process at all is for none of them, whatever is asked of its user.
  const rules = judged.map((statements) => [rule.sentBy(uid), ...statements]);
  return chain('from_gateway', 'filter', 'output', filter, 'accept', rules);
}

/** Also the range itself, should it not be a private one: the other slots are in it. */
export function deniedRanges(plan: NetworkPlan): Ipv4Range[] {
  return mergeRanges([...DENIED_RANGES, plan.range]);
}

function deniedSet(plan: NetworkPlan): NftSet {
  return rangeSet(DENIED_SET, deniedRanges(plan));
}

function rangeSet(name: string, ranges: readonly Ipv4Range[]): NftSet {
  return { name, type: 'ipv4_addr', interval: true, elements: ranges.map(rule.addressValue) };
}

function nameserverRules({ nameservers }: NetworkPlan): Statements[] {
  if (nameservers.length === 0) return [];
  return [[rule.toAnyOf(nameservers), ...rule.toPort(DNS_PORT), rule.accept]];
}

function chain(
  name: string,
  type: NftChain['type'],
  hook: NftChain['hook'],
  priority: number,
  policy: NftChain['policy'],
  rules: readonly Statements[],
): NftChain {
  return { name, type, hook, priority, policy, rules: rules.map((statements) => ({ statements })) };
}

/** On its first rule, as tables have none that all versions of nft show. */
function withComment(described: NftChain, comment: string): NftChain {
  const [first, ...others] = described.rules;
  if (first === undefined) return described;
  return { ...described, rules: [{ ...first, comment }, ...others] };
}
