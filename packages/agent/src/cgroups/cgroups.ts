/**
 * `/wrenn-<prefix>/<sandbox id>` in each hierarchy that is used, at its top: a service manager that ends the agent's own
 * group, and all that is in it, must not end the microVMs, and the next agent must find them where they were.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type CgroupHierarchies,
  type CgroupLimits,
  type CgroupTree,
  createCgroupTree,
  describeCgroups,
  findCgroups,
  missingControllers,
  type NoCgroups,
  type ProcessIdentity,
} from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { abortReason } from '../signals/signals.ts';

export interface CgroupsConfig {
  readonly mode: 'auto' | 'required' | 'off';
  /** What the VMM may need beyond the guest's memory. */
  readonly memoryOverheadMib: number;
  readonly memoryOverheadPerVcpuMib: number;
  /** What the VMM's own threads may need beyond the guest's CPUs; 100 is one CPU. */
  readonly cpuOverheadPercent: number;
  readonly pidsMax: number;
}

interface CgroupsOptions extends CgroupsConfig {
  /** Tells the groups of one agent from those of another. */
  readonly prefix: string;
  /** For tests; by default what this machine has. */
  readonly found?: CgroupHierarchies | NoCgroups;
}

export interface GuestSize {
  readonly memoryMib: number;
  readonly vcpus: number;
}

export interface Cgroups {
  /** In one line: `v2: memory, cpu, pids` or `off: <why>`. */
  readonly status: string;
  /** Whether all of memory, CPU and processes are limited. */
  readonly complete: boolean;
  /** Makes the sandbox's group with its limits. Throws `cgroups_unavailable`. */
  prepare(id: string, guest: GuestSize): Promise<void>;
  /** Moves the VMM and all around it. Who is gone already is left out. Throws `cgroups_unavailable`. */
  enter(id: string, processes: readonly Pick<ProcessIdentity, 'pid'>[]): Promise<void>;
  /** Waits until the last process has left. Right where there is no group, too. */
  remove(id: string, signal: AbortSignal): Promise<void>;
  /** The ids of groups that there are besides those known: an earlier agent's. */
  strays(known: ReadonlySet<string>): Promise<string[]>;
  /** A sentence if the kernel killed the VMM for want of memory. Never rejects. */
  whyKilled(id: string): Promise<string | undefined>;
  /** Removes what holds the sandboxes' groups, unless there are any. */
  stop(): Promise<void>;
}

const MIB = 1024 * 1024;
/** A process that was killed holds its group until its last thread is gone, a moment after it counts as dead. */
const REMOVE_POLL_MS = 5;
const TRIAL: GuestSize = { memoryMib: 64, vcpus: 1 };
/** No sandbox's id. */
const TRIAL_GROUP = 'trial';

/** Throws `cgroups_unavailable` where limits are required and cannot all be had. */
export async function createCgroups(options: CgroupsOptions): Promise<Cgroups> {
  const { mode, memoryOverheadMib, memoryOverheadPerVcpuMib, cpuOverheadPercent, pidsMax } = options;
  const top = topGroup(options.prefix);
  const found = options.found ?? (await findCgroups());
  // Without limits too: an earlier agent may have left groups.
  const tree = 'reason' in found ? undefined : createCgroupTree(found);

  const limitsOf = ({ memoryMib, vcpus }: GuestSize): CgroupLimits => ({
    memoryBytes: (memoryMib + memoryOverheadMib + vcpus * memoryOverheadPerVcpuMib) * MIB,
    cpus: vcpus + cpuOverheadPercent / 100,
    pids: pidsMax,
  });

  const offBecause = await whyOff(mode, found, () => tryOut(tree, top, limitsOf(TRIAL)));
  const complete = offBecause === undefined && missingControllers(found).length === 0;
  const status = offBecause === undefined ? describeCgroups(found) : `off: ${offBecause}`;
  if (mode === 'required' && !complete) {
    await tree?.remove([top]);
    throw new WrennError('cgroups_unavailable', `Not all cgroup limits can be had: ${status}`, {
      hint: 'Set `cgroups.mode` to `auto` to run without those that cannot.',
      field: 'cgroups.mode',
    });
  }
  const limiting = offBecause === undefined ? tree : undefined;

  return {
    status,
    complete,
    prepare: async (id, guest) => limiting?.make([top, id], limitsOf(guest)),
    enter: async (id, processes) => {
      // In this order, so that a child of the first that is not known yet would be born in the group.
      for (const { pid } of processes) await limiting?.enter([top, id], pid);
    },
    remove: async (id, signal) => {
      while (tree !== undefined && !(await tree.remove([top, id]))) {
        if (signal.aborted) throw abortReason(signal);
        await sleep(REMOVE_POLL_MS);
      }
    },
    strays: async (known) => {
      const groups = (await tree?.children([top])) ?? [];
      return groups.filter((id) => !known.has(id));
    },
    whyKilled: async (id) => {
      const kill = await tree?.oomKill([top, id]).catch(() => undefined);
      if (kill === undefined) return undefined;
      const limitMib = Math.floor(kill.limitBytes / MIB);
      return kill.atOwnLimit
        ? `It was killed because it used more memory than its limit of ${limitMib} MiB.`
        : 'It was killed because the host ran out of memory.';
    },
    // In use as long as there are groups in it.
    stop: async () => void (await tree?.remove([top])),
  };
}

/** What there is of the groups of agents with this prefix, as `wrenn-wr/<id>`: empty when none has a sandbox. */
export async function leftCgroups(prefix: string): Promise<string[]> {
  const found = await findCgroups();
  if ('reason' in found) return [];
  const top = topGroup(prefix);
  return (await createCgroupTree(found).children([top])).map((id) => `${top}/${id}`);
}

function topGroup(prefix: string): string {
  return `wrenn-${prefix}`;
}

/** Undefined where groups can be made here. */
async function whyOff(
  mode: CgroupsConfig['mode'],
  found: CgroupHierarchies | NoCgroups,
  tryOut: () => Promise<void>,
): Promise<string | undefined> {
  if (mode === 'off') return 'the configuration says so';
  if ('reason' in found) return found.reason;
  try {
    await tryOut();
    return undefined;
  } catch (error) {
    return WrennError.from(error).message;
  }
}

/** Looking does not tell everything: security modules and container runtimes may refuse what the mounts allow. */
async function tryOut(tree: CgroupTree | undefined, top: string, limits: CgroupLimits): Promise<void> {
  try {
    await tree?.make([top, TRIAL_GROUP], limits);
  } catch (error) {
    // What could not be made may be there in part.
    await tree?.remove([top, TRIAL_GROUP]).catch(() => {});
    await tree?.remove([top]).catch(() => {});
    throw error;
  }
  await tree?.remove([top, TRIAL_GROUP]);
}
