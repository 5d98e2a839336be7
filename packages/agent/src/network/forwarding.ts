/**
 * Whether the host passes packets on at all. The machine-wide switch is not touched: a packet is passed on when
 * the link by which it came may forward, so the uplinks' own switches are enough. What was switched on is
 * written in our table, so that it is known again after a crash and switched off at the end. Agents on one
 * machine see each other's tables: the last one switches off.
 */
import type { Link, NftBaseChain, Route } from '@wrenn/host';
import {
  linkPattern,
  type NetworkConfig,
  type NetworkPlan,
  planNetwork,
  slotIndex,
  TABLE_SUFFIX,
} from './config.ts';
import { createNetworkHost, type NetworkHost } from './host.ts';
import { OPENED_SET, type Uplinks } from './policy.ts';

/** Names that nft and /proc take as they are. */
const PLAIN_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.@:-]*$/;

export const NO_UPLINKS: Uplinks = { opened: [], closed: [] };

/** The links of the default routes. */
export function uplinkNames(routes: readonly Route[]): string[] {
  const names = routes.flatMap(({ range, link }) =>
    range === undefined && link !== undefined ? [link] : [],
  );
  return [...new Set(names)];
}

/** What has to be switched on. `previous` is what an earlier agent has. */
export async function planUplinks(
  plan: NetworkPlan,
  host: NetworkHost,
  links: readonly Link[],
  routes: readonly Route[],
  previous: Uplinks,
): Promise<Uplinks> {
  // With the machine-wide switch on, the machine is a router already, by somebody else's decision.
  if (!plan.enableForwarding || (await forwardsEverywhere(host))) return NO_UPLINKS;
  const others = links
    .map(({ name }) => name)
    .filter((name) => name !== 'lo' && PLAIN_NAME.test(name) && slotIndex(plan, name) === undefined);
  const openedBefore = [...previous.opened, ...(await openedByOthers(plan, host))];
  const states = await Promise.all(
    others.map(async (name) => ({ name, forwards: (await readForwarding(host, name)) === '1' })),
  );
  const closed = states
    .filter(({ name, forwards }) => !forwards || openedBefore.includes(name))
    .map(({ name }) => name);
  return { opened: uplinkNames(routes).filter((name) => closed.includes(name)), closed };
}

/** Switches on what `next` says, and off what only `previous` said. */
export async function switchUplinks(
  plan: NetworkPlan,
  host: NetworkHost,
  previous: Uplinks,
  next: Uplinks,
): Promise<void> {
  for (const name of next.opened) await writeForwarding(host, name, '1');
  const needed = [...next.opened, ...(await openedByOthers(plan, host))];
  const over = previous.opened.filter((name) => !needed.includes(name));
  if (over.length === 0 || (await forwardsEverywhere(host))) return;
  for (const name of over) await writeForwarding(host, name, '0');
}

async function openedByOthers(plan: NetworkPlan, { nft }: NetworkHost): Promise<string[]> {
  const sets = await nft.setsNamed(OPENED_SET);
  return sets
    .filter(({ table }) => table.endsWith(TABLE_SUFFIX) && table !== plan.tableName)
    .flatMap(({ elements }) => elements);
}

async function forwardsEverywhere({ sysctl }: NetworkHost): Promise<boolean> {
  return (await sysctl.read(['ipv4', 'ip_forward'])) === '1';
}

function readForwarding({ sysctl }: NetworkHost, link: string): Promise<string | undefined> {
  return sysctl.read(['ipv4', 'conf', link, 'forwarding']);
}

async function writeForwarding(host: NetworkHost, link: string, value: '0' | '1'): Promise<void> {
  const now = await readForwarding(host, link);
  // Undefined: the link is gone.
  if (now === undefined || now === value) return;
  await host.sysctl.write(['ipv4', 'conf', link, 'forwarding'], value);
}

export interface ForwardingProblem {
  readonly code: 'no_uplink' | 'forwarding_off' | 'firewall_drops';
  readonly message: string;
  readonly hint: string;
}

/** Why guests may not reach the outside; for `wrenn doctor`. Changes nothing. An empty list is good news. */
export async function checkForwarding(
  config: NetworkConfig,
  signal: AbortSignal,
  host: NetworkHost = createNetworkHost(),
): Promise<ForwardingProblem[]> {
  const plan = planNetwork(config);
  const [routes, chains] = await Promise.all([host.ip.routes(signal), host.nft.baseChains({ signal })]);
  const uplinks = uplinkNames(routes);
  const problems: ForwardingProblem[] = [];
  if (uplinks.length === 0) {
    problems.push({
      code: 'no_uplink',
      message: 'This machine has no default route, so guests cannot reach the outside either.',
      hint: 'ip route add default via ADDRESS',
    });
  }
  if (!plan.enableForwarding && !(await forwardsEverywhere(host))) {
    problems.push({
      code: 'forwarding_off',
      message: 'This machine forwards no packets, and the agent is told not to change that.',
      hint: 'sysctl -w net.ipv4.ip_forward=1, or set `network.enableForwarding` to true.',
    });
  }
  const dropping = chains.filter(
    ({ hook, policy, table }) => hook === 'forward' && policy === 'drop' && table !== plan.tableName,
  );
  problems.push(...dropping.map((chain) => firewallProblem(plan, chain)));
  return problems;
}

/** A packet must be accepted in the tables of all, so ours cannot let through what another's drops. */
function firewallProblem(plan: NetworkPlan, { family, table, name }: NftBaseChain): ForwardingProblem {
  const byIptables = table === 'filter' && name === 'FORWARD';
  const links = `${plan.prefix}-+`;
  return {
    code: 'firewall_drops',
    message: `The firewall's chain ${family} ${table} ${name} drops what it does not know: guests may be cut off.`,
    hint: byIptables
      ? `iptables -I FORWARD -i ${links} -j ACCEPT; iptables -I FORWARD -o ${links} -j ACCEPT`
      : `nft insert rule ${family} ${table} ${name} iifname "${linkPattern(plan)}" accept, and the same with oifname.`,
  };
}
