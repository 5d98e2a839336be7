/** Makes one slot in the kernel, and takes it away. Knows no allocator and no other slot. */
import {
  addAddress,
  addDefaultRoute,
  addNetns,
  addPermanentNeighbour,
  addTap,
  addVeth,
  deleteLink,
  deleteNetns,
  setLink,
} from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import {
  GATEWAY,
  GATEWAY_MAC,
  GUEST,
  GUEST_MAC,
  GUEST_PREFIX_LENGTH,
  GUEST_TAP_NAME,
  type NetworkPlan,
  slotAddresses,
  slotName,
  UPLINK_NAME,
} from './config.ts';
import type { NetworkHost } from './host.ts';
import { slotTables } from './policy.ts';
import { rateCommands } from './rates.ts';
import type { SlotEgress, SlotRates, SlotSpec } from './slot.ts';

/** RFC 3021: both addresses of a /31 are hosts. */
const PAIR_PREFIX_LENGTH = 31;
/** The kernel ends some things a moment after they were told to go. */
const TAKE_DOWN_ATTEMPTS = 3;

/**
 * Two steps: the namespace with its link to the host, then all that is inside, at once. What has been made is
 * taken away again when any of it fails, after all of it has come to its end.
 */
export async function setUpSlot(
  plan: NetworkPlan,
  host: NetworkHost,
  index: number,
  spec: SlotSpec,
  mtu: number,
  signal: AbortSignal,
): Promise<void> {
  const name = slotName(plan, index);
  try {
    await makePair(plan, host, index, mtu, signal);
    await allDone([
      fillNamespace(plan, host, index, spec, signal),
      host.nft.createTables(slotTables(plan, slotAddresses(plan, index), spec.egress), {
        netns: name,
        signal,
      }),
      host.sysctl.writeIn(name, ['ipv4', 'ip_forward'], '1', signal),
      host.sysctl.write(['ipv4', 'conf', name, 'forwarding'], '1'),
    ]);
    if (signal.aborted) throw WrennError.from(signal.reason);
  } catch (error) {
    await takeDownSlot(plan, host, index).catch((undoError: unknown) => {
      const { code, message, hint } = WrennError.from(error);
      const cause = new AggregateError([error, undoError], 'The slot could not be taken away again either.');
      throw new WrennError(code, message, hint === undefined ? { cause } : { hint, cause });
    });
    throw error;
  }
}

/** Of a slot that has no limits yet. */
export async function limitSlot(
  plan: NetworkPlan,
  { tc }: NetworkHost,
  index: number,
  rates: SlotRates,
  signal: AbortSignal,
): Promise<void> {
  await tc.batch(rateCommands(rates), { netns: slotName(plan, index), signal });
}

/** In one transaction: there is no moment without rules. */
export async function replaceRules(
  plan: NetworkPlan,
  { nft }: NetworkHost,
  index: number,
  egress: SlotEgress,
  signal: AbortSignal,
): Promise<void> {
  const tables = slotTables(plan, slotAddresses(plan, index), egress);
  await nft.replaceTables(tables, { netns: slotName(plan, index), signal });
}

function makePair(
  plan: NetworkPlan,
  { ip }: NetworkHost,
  index: number,
  mtu: number,
  signal: AbortSignal,
): Promise<void> {
  const name = slotName(plan, index);
  const veth = { link: name, peer: UPLINK_NAME, peerNetns: name, mtu };
  return ip.batch(
    [
      addNetns(name),
      addVeth(veth),
      setLink(name, { alias: plan.ownerTag, ipv6AddressMode: 'none' }),
      addAddress(name, slotAddresses(plan, index).host, PAIR_PREFIX_LENGTH),
      setLink(name, { up: true }),
    ],
    { signal },
  );
}

async function fillNamespace(
  plan: NetworkPlan,
  { ip, tc }: NetworkHost,
  index: number,
  { uid, gid, rates = {} }: SlotSpec,
  signal: AbortSignal,
): Promise<void> {
  const addresses = slotAddresses(plan, index);
  const inside = { netns: slotName(plan, index), signal };
  await ip.batch(
    [
      setLink(UPLINK_NAME, { ipv6AddressMode: 'none' }),
      addAddress(UPLINK_NAME, addresses.guest, PAIR_PREFIX_LENGTH),
      setLink(UPLINK_NAME, { up: true }),
      addDefaultRoute(addresses.host),
      addTap({ link: GUEST_TAP_NAME, uid, gid }),
      setLink(GUEST_TAP_NAME, { mac: GATEWAY_MAC, ipv6AddressMode: 'none' }),
      addAddress(GUEST_TAP_NAME, GATEWAY, GUEST_PREFIX_LENGTH),
      setLink(GUEST_TAP_NAME, { up: true }),
      addPermanentNeighbour(GUEST_TAP_NAME, GUEST, GUEST_MAC),
    ],
    inside,
  );
  await tc.batch(rateCommands(rates), inside);
}

/**
 * Takes away what there is of a slot, all or a part. Idempotent. The link goes first: the kernel removes it at
 * once, but a namespace's own links only after a while.
 */
export async function takeDownSlot(plan: NetworkPlan, host: NetworkHost, index: number): Promise<void> {
  const name = slotName(plan, index);
  let failure: unknown;
  try {
    return await host.ip.batch([deleteLink(name), deleteNetns(name)]);
  } catch (error) {
    // Not all of it was there. What is left is looked up, and taken away one by one.
    failure = error;
  }
  for (let attempt = 0; attempt < TAKE_DOWN_ATTEMPTS; attempt += 1) {
    const left = await remains(host, name);
    if (left.length === 0) return;
    try {
      for (const command of left) await host.ip.batch([command]);
    } catch (error) {
      failure = error;
    }
  }
  if ((await remains(host, name)).length === 0) return;
  throw new WrennError('command_failed', `The network slot ${name} could not be taken away.`, {
    hint: `Try: ip link delete ${name}; ip netns delete ${name}`,
    cause: failure,
  });
}

async function remains({ ip }: NetworkHost, name: string) {
  const [links, namespaces] = await Promise.all([ip.links(), ip.namespaces()]);
  return [
    ...(links.some((link) => link.name === name) ? [deleteLink(name)] : []),
    ...(namespaces.includes(name) ? [deleteNetns(name)] : []),
  ];
}

/** Waits for all, whatever becomes of the others; then throws the first failure. */
async function allDone(work: readonly Promise<void>[]): Promise<void> {
  const outcomes = await Promise.allSettled(work);
  const failed = outcomes.find((outcome) => outcome.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}
