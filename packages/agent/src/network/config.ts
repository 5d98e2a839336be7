/** What the network is told, and the names and addresses that follow from it. Pure; checked once. */
import { createHash } from 'node:crypto';
import {
  addressAt,
  formatIpv4,
  type Ipv4,
  type Ipv4Range,
  parseIpv4,
  parseIpv4Range,
  rangeSize,
  rangesOverlap,
} from '@wrenn/host';
import {
  GUEST_ADDRESS,
  GUEST_GATEWAY,
  GUEST_PREFIX_LENGTH,
  GUEST_TAP_NAME,
  WrennError,
} from '@wrenn/protocol';
import type { NetworkSlot } from './slot.ts';

export interface NetworkConfig {
  /** The agent's state directory: says to whom links, tables and routes belong. */
  readonly owner: string;
  /** Where the slots' host-side addresses come from, two for each. */
  readonly range: string;
  /** Begins the name of every namespace, link and table. */
  readonly prefix: string;
  /** How long an index rests after its release. */
  readonly holdOffMs: number;
  /** Name servers that guests may ask although they are in a denied range. Port 53 alone. */
  readonly nameservers?: readonly string[] | undefined;
  /** Let the uplinks forward packets where they do not yet. Default true. */
  readonly enableForwarding?: boolean | undefined;
  /** The egress gateway's user; undefined where there is none. */
  readonly gatewayUid?: number | undefined;
}

export interface NetworkPlan {
  readonly owner: string;
  /** Short and without odd characters, in the alias of every link. */
  readonly ownerTag: string;
  readonly range: Ipv4Range;
  readonly prefix: string;
  readonly slotCount: number;
  readonly holdOffMs: number;
  readonly nameservers: readonly Ipv4[];
  readonly enableForwarding: boolean;
  readonly gatewayUid: number | undefined;
  /** The host's own table, in which the rules for all slots are. */
  readonly tableName: string;
  /** Says of the range's route whose it is. */
  readonly routeMetric: number;
}

/** Both ends of the veth pair. */
export interface SlotAddresses {
  readonly host: Ipv4;
  readonly guest: Ipv4;
}

/** The namespace's end of the veth pair. */
export const UPLINK_NAME = 'veth0';

/**
 * The same in every sandbox, as the addresses are: what a snapshot remembers of its network, its neighbour's
 * MAC too, is true wherever it is continued. Locally administered (the 02), then "wrn", then the address's end.
 */
export const GUEST_MAC = '02:77:72:6e:00:15';
export const GATEWAY_MAC = '02:77:72:6e:00:16';

export const GUEST = parseIpv4(GUEST_ADDRESS);
export const GATEWAY = parseIpv4(GUEST_GATEWAY);
export { GUEST_PREFIX_LENGTH, GUEST_TAP_NAME };

/** Not used by any routing daemon (iproute2's rt_protos): with the metric it marks a route as an agent's own. */
export const ROUTE_PROTOCOL = 87;

/** Ends the name of every agent's table on the host. */
export const TABLE_SUFFIX = '_slots';

const ADDRESSES_PER_SLOT = 2;
const MAX_SLOTS = 32_768;
const PREFIX = /^[a-z][a-z0-9]{0,4}$/;

/** What guests never reach, whatever the machine's routes say. RFC 6890's special ranges that are in use. */
export const DENIED_RANGES: readonly Ipv4Range[] = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '224.0.0.0/4',
  '240.0.0.0/4',
].map(parseIpv4Range);

const UNUSABLE_RANGES = ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3'].map(parseIpv4Range);

/** Throws `invalid_config`. */
export function planNetwork(config: NetworkConfig): NetworkPlan {
  const range = parseField('network.range', () => parseIpv4Range(config.range));
  if (range.prefixLength < 8 || range.prefixLength > 31) {
    throw invalid('network.range', 'The range must have a prefix length from 8 to 31.');
  }
  if (UNUSABLE_RANGES.some((unusable) => rangesOverlap(unusable, range))) {
    throw invalid('network.range', 'The range must be one that can be routed, as 10.117.0.0/16.');
  }
  if (!PREFIX.test(config.prefix)) {
    throw invalid('network.prefix', 'The prefix must be one to five lower-case letters and digits.');
  }
  return {
    owner: config.owner,
    ownerTag: tagOf(config.owner),
    range,
    prefix: config.prefix,
    slotCount: Math.min(MAX_SLOTS, rangeSize(range) / ADDRESSES_PER_SLOT),
    holdOffMs: config.holdOffMs,
    nameservers: parseField('network.nameservers', () => (config.nameservers ?? []).map(parseIpv4)),
    enableForwarding: config.enableForwarding ?? true,
    gatewayUid: config.gatewayUid,
    tableName: `${config.prefix}${TABLE_SUFFIX}`,
    // Up to five base-36 digits: a different number for every prefix.
    routeMetric: Number.parseInt(config.prefix, 36),
  };
}

export function tagOf(owner: string): string {
  return `wrenn-${createHash('sha256').update(owner).digest('hex').slice(0, 16)}`;
}

/** The name of a slot's namespace and of its link on the host. */
export function slotName(plan: NetworkPlan, index: number): string {
  if (!Number.isInteger(index) || index < 0 || index >= plan.slotCount) {
    throw new WrennError('internal', `There is no network slot ${index}.`);
  }
  return `${plan.prefix}-${index}`;
}

/** The index of a slot's name, undefined for any other. */
export function slotIndex(plan: NetworkPlan, name: string): number | undefined {
  const [, digits] = /^[a-z0-9]+-(0|[1-9]\d{0,4})$/.exec(name) ?? [];
  const index = Number(digits);
  if (digits === undefined || name !== `${plan.prefix}-${digits}`) return undefined;
  return index < plan.slotCount ? index : undefined;
}

/** The name of the slot that a sandbox with this address has. Throws `invalid_argument` for what is no address. */
export function slotNameAt(
  { range, prefix }: Pick<NetworkConfig, 'range' | 'prefix'>,
  address: string,
): string {
  const offset = parseIpv4(address) - parseIpv4Range(range).address;
  return `${prefix}-${Math.floor(offset / ADDRESSES_PER_SLOT)}`;
}

/** The name of every slot's link, as nft writes it. No other prefix's names fit, as none has a hyphen. */
export function linkPattern(plan: NetworkPlan): string {
  return `${plan.prefix}-*`;
}

export function slotAddresses(plan: NetworkPlan, index: number): SlotAddresses {
  return {
    host: addressAt(plan.range, index * ADDRESSES_PER_SLOT),
    guest: addressAt(plan.range, index * ADDRESSES_PER_SLOT + 1),
  };
}

export function describeSlot(plan: NetworkPlan, index: number): NetworkSlot {
  const name = slotName(plan, index);
  return {
    index,
    netns: name,
    hostLink: name,
    tap: GUEST_TAP_NAME,
    guestMac: GUEST_MAC,
    address: formatIpv4(slotAddresses(plan, index).guest),
  };
}

function parseField<T>(field: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof WrennError)) throw error;
    throw invalid(field, error.message, error.hint);
  }
}

function invalid(field: string, message: string, hint?: string): WrennError {
  return new WrennError('invalid_config', message, { field, ...(hint === undefined ? {} : { hint }) });
}
