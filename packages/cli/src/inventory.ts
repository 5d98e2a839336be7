/**
 * What there is of Wrenn on this machine: for the demo, which shows that nothing is left, and for doctor.
 * Looks only at names that Wrenn gives.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type AgentConfig, agentPaths } from '@wrenn/agent';
import { runCommand } from '@wrenn/host';

export interface Inventory {
  readonly processes: readonly string[];
  readonly namespaces: readonly string[];
  readonly links: readonly string[];
  readonly rules: readonly string[];
  readonly mounts: readonly string[];
  readonly files: readonly string[];
}

const COMMAND_TIMEOUT_MS = 10_000;
const UIDS = 65_536;

/** Everything that belongs to sandboxes: the agent itself and what was set up do not count. */
export async function takeInventory(config: AgentConfig): Promise<Inventory> {
  const { sandboxesDir } = agentPaths(config);
  const { prefix } = config.network;
  const named = (names: readonly string[]) =>
    names.filter((name) => new RegExp(`^${prefix}[a-z]*-?\\d+$`).test(name));
  const [processes, namespaces, links, rules, mounts, files] = await Promise.all([
    vmmProcesses(config),
    readdir('/run/netns').catch(() => []),
    readdir('/sys/class/net').catch(() => []),
    slotRules(named(await readdir('/sys/class/net').catch(() => [])), prefix),
    readFile('/proc/self/mounts', 'utf8').then((text) =>
      text.split('\n').filter((line) => line.includes(sandboxesDir)),
    ),
    readdir(sandboxesDir).catch(() => []),
  ]);
  return {
    processes,
    namespaces: named(namespaces),
    links: named(links),
    rules,
    mounts,
    files: files.map((name) => join(sandboxesDir, name)),
  };
}

export function isEmpty(inventory: Inventory): boolean {
  return Object.values(inventory).every((found) => found.length === 0);
}

/** VMMs run under uids that nothing else has, with their sandbox's directory in their command line. */
async function vmmProcesses(config: AgentConfig): Promise<string[]> {
  const { uidBase } = config;
  const { sandboxesDir } = agentPaths(config);
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    const uid = Number(/^Uid:\s+(\d+)/m.exec(status)?.[1]);
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    const isVmm = (uid >= uidBase && uid < uidBase + UIDS) || command.startsWith('bwrap');
    if (isVmm && command.includes(sandboxesDir))
      found.push(`${pid} ${/^Name:\s+(.+)/m.exec(status)?.[1] ?? ''}`);
  }
  return found;
}

/** Rules, in any table of Wrenn's, that name a slot's link or address. */
async function slotRules(links: readonly string[], prefix: string): Promise<string[]> {
  const list = async (args: string[]) =>
    (await runCommand('nft', args, { timeoutMs: COMMAND_TIMEOUT_MS, maxOutputBytes: 16 * 1024 * 1024 }))
      .stdout;
  const tables = (await list(['list', 'tables']).catch(() => '')).split('\n');
  const own = tables
    .map((line) => /^table (\S+) (\S+)$/.exec(line))
    .filter((match) => match?.[2]?.startsWith(prefix));
  const rules: string[] = [];
  for (const match of own) {
    const text = await list(['list', 'table', match?.[1] ?? '', match?.[2] ?? '']).catch(() => '');
    const lines = text.split('\n').filter((line) => links.some((link) => line.includes(`"${link}"`)));
    rules.push(...lines.map((line) => line.trim()));
  }
  return rules;
}
