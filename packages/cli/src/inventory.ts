/**
 * What there is of Wrenn on this machine: for the demo, which shows that nothing is left, and for doctor.
 * Looks only at names that Wrenn gives.
 */
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type AgentConfig, agentPaths, leftCgroups } from '@wrenn/agent';
import { runCommand } from '@wrenn/host';

export const INVENTORY_KINDS = [
  'processes',
  'cgroups',
  'namespaces',
  'links',
  'rules',
  'mounts',
  'files',
] as const;
export type Inventory = Readonly<Record<(typeof INVENTORY_KINDS)[number], readonly string[]>>;

const COMMAND_TIMEOUT_MS = 10_000;
const UIDS = 65_536;

/** Everything that belongs to sandboxes: the agent itself and what was set up do not count. */
export async function takeInventory(config: AgentConfig): Promise<Inventory> {
  const { sandboxesDir } = agentPaths(config);
  const { prefix } = config.network;
  const named = (names: readonly string[]) =>
    names.filter((name) => new RegExp(`^${prefix}-\\d+$`).test(name));
  const [processes, cgroups, namespaces, links, rules, mounts, files] = await Promise.all([
    vmmProcesses(config),
    leftCgroups(prefix),
    readdir('/run/netns').catch(() => []),
    readdir('/sys/class/net').catch(() => []),
    ownTables(prefix),
    readFile('/proc/self/mounts', 'utf8').then((text) =>
      text.split('\n').filter((line) => line.includes(sandboxesDir)),
    ),
    readdir(sandboxesDir).catch(() => []),
  ]);
  return {
    processes,
    cgroups,
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

/** What stands around a VMM, as root. */
const WRAPPER = /^(prlimit|nsenter|bwrap|setpriv|jailer(-.*)?)$/;

/**
 * VMMs run under uids that nothing else has. They, or at least what stands around one in a jail, have their
 * sandbox's directory in their command line.
 */
async function vmmProcesses(config: AgentConfig): Promise<string[]> {
  const { uidBase } = config;
  const { sandboxesDir } = agentPaths(config);
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    const uid = Number(/^Uid:\s+(\d+)/m.exec(status)?.[1]);
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    const program = basename(command.slice(0, command.indexOf('\0')));
    const isVmm = (uid >= uidBase && uid < uidBase + UIDS) || WRAPPER.test(program);
    if (!isVmm || !command.includes(sandboxesDir)) continue;
    const [, id] = command.slice(command.indexOf(sandboxesDir) + sandboxesDir.length).split(/[/\0]/);
    found.push(`${pid} ${/^Name:\s+(.+)/m.exec(status)?.[1] ?? ''} of ${id ?? 'none'}`);
  }
  return found;
}

/** The tables of these names, as `table inet wr_slots`. */
async function ownTables(prefix: string): Promise<string[]> {
  const { stdout } = await runCommand('nft', ['list', 'tables'], { timeoutMs: COMMAND_TIMEOUT_MS });
  return stdout.split('\n').filter((line) => line.split(' ')[2]?.startsWith(`${prefix}_`));
}
