/**
 * A slot is one sandbox's network: a namespace with a TAP inside, a veth pair to the host, one host-side
 * address that leads to the guest, and the rules that say what the guest may reach.
 */
import type { Ipv4Range } from '@wrenn/host';

export interface NetworkSlot {
  readonly index: number;
  /** Name of the network namespace, as `ip netns` knows it. */
  readonly netns: string;
  readonly hostLink: string;
  readonly tap: string;
  readonly guestMac: string;
  /** Connecting to this address on the host reaches the guest's own. */
  readonly address: string;
}

/** The VMM's uid and gid: it alone may open the TAP. */
export interface SlotOwner {
  readonly uid: number;
  readonly gid: number;
}

export interface SlotSpec extends SlotOwner {
  readonly rates?: SlotRates;
  readonly egress?: SlotEgress;
}

/** What the guest may reach of the rest of the world; addresses of the host and of private networks are out of question. */
export interface SlotEgress {
  /** Of these even what is in the others. */
  readonly allowed: readonly Ipv4Range[];
  readonly refused: readonly Ipv4Range[];
  /** Of the refused, what has one of these names and is asked for by it, over HTTP or TLS on their own ports. */
  readonly named?: NamedEgress | undefined;
}

export interface NamedEgress {
  /** As `example.com` or `*.example.com`; at least one. */
  readonly names: readonly string[];
  /** What the guest may send on this way, which passes none of the slot's own filters. */
  readonly transmitBytesPerSecond?: number | undefined;
}

/** How fast the guest may be, Ethernet headers and all; undefined is as fast as it can. */
export interface SlotRates {
  readonly receiveBytesPerSecond?: number | undefined;
  readonly transmitBytesPerSecond?: number | undefined;
}

export interface Network {
  /**
   * Prepares the host: checks the configured range against the machine's routes (`network_conflict`),
   * installs Wrenn's own nft table, and takes away every slot that is not in `inUse` (left by an agent
   * that died). Returns the indices that were taken away.
   */
  start(inUse: ReadonlySet<number>, signal: AbortSignal): Promise<number[]>;
  /** Reserves an index, without touching the host yet: journal it, then `setUp`. Throws `network_slots_exhausted`. */
  reserve(): number;
  /** Makes the slot real. On failure or abort nothing of it is left but what `release` takes away. */
  setUp(index: number, spec: SlotSpec, signal: AbortSignal): Promise<NetworkSlot>;
  /** Limits the guest of a slot that is set up and has no limits yet. */
  setRates(index: number, rates: SlotRates, signal: AbortSignal): Promise<void>;
  /** Replaces what the guest of a slot that is set up may reach, connections that are open too. */
  setEgress(index: number, egress: SlotEgress, signal: AbortSignal): Promise<void>;
  /** The slot of an index already set up by an earlier agent, without touching the host. */
  describe(index: number): NetworkSlot;
  /** Takes away whatever there is of the slot, then gives the index back after a hold-off. Idempotent; not cancellable. */
  release(index: number): Promise<void>;
  /** Removes what `start` installed; to be called when no slot is left. */
  stop(): Promise<void>;
}
