/** What the network has on the host besides its slots: one nft table and one route. Whose they are is checked first. */
import {
  addUnreachableRoute,
  deleteUnreachableRoute,
  formatIpv4Range,
  type Ipv4Range,
  type Link,
  type NftTableListing,
  parseIpv4Range,
  type Route,
  rangesOverlap,
} from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { type NetworkPlan, ROUTE_PROTOCOL, slotIndex, tagOf } from './config.ts';
import { NO_UPLINKS, planUplinks, switchUplinks, uplinkNames } from './forwarding.ts';
import type { NetworkHost } from './host.ts';
import { CLOSED_SET, hostTable, OPENED_SET, type Uplinks } from './policy.ts';

const ETHERNET_MTU = 1500;
/** A path that can stand in a rule's comment and in an error as it is. */
const PLAIN_PATH = /^[A-Za-z0-9/._-]{1,64}$/;

/** What was found on the host; nothing of it belongs to anybody else. */
export interface HostState {
  readonly links: readonly Link[];
  readonly routes: readonly Route[];
  readonly table: NftTableListing | undefined;
  /** The slots of which there is something. */
  readonly slots: readonly number[];
  /** What slots' links can carry without fragments. */
  readonly mtu: number;
}

/** Throws `network_conflict` where names or addresses are somebody else's. */
export async function examineHost(
  plan: NetworkPlan,
  host: NetworkHost,
  signal: AbortSignal,
): Promise<HostState> {
  const [links, routes, namespaces, table] = await Promise.all([
    host.ip.links(signal),
    host.ip.routes(signal),
    host.ip.namespaces(),
    host.nft.readTable('inet', plan.tableName, { signal }),
  ]);
  const tags = [plan.ownerTag];
  if (table !== undefined) tags.push(await tagOfTable(plan, host, table));

  const slots = new Set<number>();
  for (const link of links) {
    const index = slotIndex(plan, link.name);
    if (index === undefined) continue;
    // Without a mark: its maker died in between, if the table says that the prefix is ours.
    const ours = link.alias === undefined ? table !== undefined : tags.includes(link.alias);
    if (!ours) throw foreignName(plan, 'link', link.name);
    slots.add(index);
  }
  for (const name of namespaces) {
    const index = slotIndex(plan, name);
    if (index === undefined) continue;
    // A namespace never has a mark. It is ours if its link is, or if the table says so.
    if (table === undefined && !slots.has(index)) throw foreignName(plan, 'network namespace', name);
    slots.add(index);
  }
  checkRange(plan, routes);
  const mtus = links.filter(({ name }) => uplinkNames(routes).includes(name)).map(({ mtu }) => mtu);
  return { links, routes, table, slots: [...slots], mtu: Math.min(ETHERNET_MTU, ...mtus) };
}

/** Brings table, route and forwarding into the state that the plan wants, whatever of it there is. */
export async function installHostSide(
  plan: NetworkPlan,
  host: NetworkHost,
  state: HostState,
  signal: AbortSignal,
): Promise<void> {
  const previous = uplinksOf(state.table);
  const uplinks = await planUplinks(plan, host, state.links, state.routes, previous);
  const comment = PLAIN_PATH.test(plan.owner) ? `${plan.ownerTag} ${plan.owner}` : plan.ownerTag;
  const table = hostTable(plan, uplinks, comment);
  // Of two agents that start at once, one finds the table made by the other.
  if (state.table === undefined) await host.nft.createTables([table], { signal });
  else await host.nft.replaceTables([table], { signal });

  const own = state.routes.filter((route) => isOwnRoute(plan, route));
  const stale = own.flatMap(({ range }) =>
    range === undefined || sameRange(range, plan.range) ? [] : [deleteUnreachableRoute(range, mark(plan))],
  );
  const missing = own.length === stale.length ? [addUnreachableRoute(plan.range, mark(plan))] : [];
  await host.ip.batch([...stale, ...missing], { signal });
  await switchUplinks(plan, host, previous, uplinks);
}

/** Takes all of it away. Idempotent. */
export async function removeHostSide(plan: NetworkPlan, host: NetworkHost): Promise<void> {
  const table = await host.nft.readTable('inet', plan.tableName);
  if (table?.comments.some((comment) => comment.startsWith(plan.ownerTag))) {
    await switchUplinks(plan, host, uplinksOf(table), NO_UPLINKS);
    await host.nft.deleteTable('inet', plan.tableName);
  }
  const own = (await host.ip.routes()).filter((route) => isOwnRoute(plan, route));
  const deletions = own.flatMap(({ range }) =>
    range === undefined ? [] : [deleteUnreachableRoute(range, mark(plan))],
  );
  await host.ip.batch(deletions);
}

function uplinksOf(table: NftTableListing | undefined): Uplinks {
  return { opened: table?.sets.get(OPENED_SET) ?? [], closed: table?.sets.get(CLOSED_SET) ?? [] };
}

/**
 * The tag of the agent that made the table: ours, or that of an agent which can never come back, as its state
 * directory is gone. Any other is a conflict: its sandboxes may live.
 */
async function tagOfTable(plan: NetworkPlan, host: NetworkHost, table: NftTableListing): Promise<string> {
  const [tag, directory] = table.comments.find((comment) => comment.startsWith('wrenn-'))?.split(' ') ?? [];
  if (tag === plan.ownerTag) return tag;
  if (tag !== undefined && directory !== undefined && tag === tagOf(directory)) {
    if (!(await host.exists(directory))) return tag;
    throw new WrennError(
      'network_conflict',
      `The names that begin with ${plan.prefix} are in use by the agent of ${directory}.`,
      {
        hint: 'Give this agent other values for `network.prefix` and `network.range`, or stop that agent.',
        field: 'network.prefix',
      },
    );
  }
  throw foreignName(plan, 'nft table', `inet ${plan.tableName}`);
}

function foreignName(plan: NetworkPlan, what: string, name: string): WrennError {
  return new WrennError('network_conflict', `The ${what} ${name} does not belong to this agent.`, {
    hint: `Give this agent another \`network.prefix\` than ${plan.prefix}, or remove the ${what}.`,
    field: 'network.prefix',
  });
}

/** Throws `network_conflict` when the machine already knows a way to any address of the range. */
export function checkRange(plan: NetworkPlan, routes: readonly Route[]): void {
  const others = routes.filter(
    (route) =>
      !isOwnRoute(plan, route) && (route.link === undefined || slotIndex(plan, route.link) === undefined),
  );
  const colliding = others.find(({ range }) => range !== undefined && rangesOverlap(range, plan.range));
  if (colliding?.range === undefined) return;
  const where = colliding.link === undefined ? colliding.type : `on ${colliding.link}`;
  const byAgent = colliding.protocol === String(ROUTE_PROTOCOL) ? ' of another Wrenn agent' : '';
  const free = freeRange(plan.range.prefixLength, others);
  const advice = free === undefined ? 'one that is free' : `one that is free, as ${formatIpv4Range(free)}`;
  throw new WrennError(
    'network_conflict',
    `The range ${formatIpv4Range(plan.range)} overlaps with the route ${formatIpv4Range(colliding.range)} (${where})${byAgent}.`,
    { hint: `Set \`network.range\` in the agent's configuration to ${advice}.`, field: 'network.range' },
  );
}

/** Throws `network_conflict` when there are slots whose addresses are from a range of before. */
export function checkUnchanged(
  plan: NetworkPlan,
  routes: readonly Route[],
  inUse: ReadonlySet<number>,
): void {
  const before = routes.find(
    (route) => isOwnRoute(plan, route) && route.range !== undefined && !sameRange(route.range, plan.range),
  )?.range;
  if (before === undefined || inUse.size === 0) return;
  throw new WrennError(
    'network_conflict',
    `There are sandboxes with addresses of the range ${formatIpv4Range(before)}, and it was changed.`,
    {
      hint: 'Set `network.range` back until they are destroyed.',
      field: 'network.range',
    },
  );
}

function freeRange(prefixLength: number, routes: readonly Route[]): Ipv4Range | undefined {
  const length = Math.max(16, prefixLength);
  for (let second = 118; second < 255; second += 1) {
    const candidate = { ...parseIpv4Range(`10.${second}.0.0/16`), prefixLength: length };
    if (!routes.some(({ range }) => range !== undefined && rangesOverlap(range, candidate))) return candidate;
  }
  return undefined;
}

function isOwnRoute(plan: NetworkPlan, { type, protocol, metric }: Route): boolean {
  return type === 'unreachable' && protocol === String(ROUTE_PROTOCOL) && metric === mark(plan).metric;
}

function mark(plan: NetworkPlan) {
  return { protocol: ROUTE_PROTOCOL, metric: plan.routeMetric };
}

function sameRange(a: Ipv4Range, b: Ipv4Range): boolean {
  return a.address === b.address && a.prefixLength === b.prefixLength;
}
