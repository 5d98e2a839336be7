/**
 * Control groups made, entered and taken away, in version 1 and 2 alike. Writes only to groups below the hierarchies'
 * roots that it was told the names of, but for one file: with version 2 the root has to hand its controllers down
 * (`cgroup.subtree_control`). Moves no process but those it is given.
 */
import { join } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import { type CgroupFiles, createCgroupFiles, errorCode } from './cgroup-files.ts';
import type { CgroupController, CgroupHierarchies } from './cgroup-hierarchies.ts';

/** The way from the hierarchy's root, as `['wrenn-wr', 'i4k2…']`. */
export type CgroupName = readonly string[];

export interface CgroupLimits {
  /** Everything counts: memory, page cache, what the kernel holds for its processes. Swap is not given. */
  readonly memoryBytes: number;
  /** 1.5 is one CPU and half of another. */
  readonly cpus: number;
  /** Processes and threads. */
  readonly pids: number;
}

/** A process of the group was killed for want of memory. */
export interface OomKill {
  /** Whether the group itself had reached its limit, or a group around it or the machine had. */
  readonly atOwnLimit: boolean;
  readonly limitBytes: number;
}

export interface CgroupTree {
  /** Makes the group and those above it; a group that is there already gets the limits. */
  make(name: CgroupName, limits?: CgroupLimits): Promise<void>;
  /** Moves a process with all of its threads. False when it is gone. */
  enter(name: CgroupName, pid: number): Promise<boolean>;
  members(name: CgroupName): Promise<number[]>;
  /** Names of the groups in this one. */
  children(name: CgroupName): Promise<string[]>;
  /** False as long as there are processes or groups in it. True when it is not there. */
  remove(name: CgroupName): Promise<boolean>;
  oomKill(name: CgroupName): Promise<OomKill | undefined>;
}

const PART = /^[a-z0-9][a-z0-9-]{0,63}$/;
const CPU_PERIOD_US = 100_000;
/** The largest piece that memory is charged in. */
const HUGE_PAGE_BYTES = 2 * 1024 * 1024;

export function createCgroupTree(
  { version, roots }: CgroupHierarchies,
  files: CgroupFiles = createCgroupFiles(),
): CgroupTree {
  const controllers = [...roots.keys()];
  /** Version 1 may have two controllers in one hierarchy; version 2 has all. */
  const places = [...new Set(roots.values())];
  const control = CONTROLS[version];

  const write = async (path: string, value: string): Promise<void> => {
    try {
      await files.write(path, value);
    } catch (cause) {
      throw refused(`${path} does not take ${JSON.stringify(value)}`, cause);
    }
  };

  const makeDirectory = async (path: string): Promise<void> => {
    try {
      await files.makeDirectory(path);
    } catch (cause) {
      if (errorCode(cause) !== 'EEXIST') throw refused(`${path} cannot be made`, cause);
    }
  };

  const handDown = async (directory: string): Promise<void> => {
    const path = join(directory, 'cgroup.subtree_control');
    const enabled = (await files.read(path))?.trim().split(' ') ?? [];
    const missing = controllers.filter((controller) => !enabled.includes(controller));
    if (missing.length > 0) await write(path, missing.map((controller) => `+${controller}`).join(' '));
  };

  return {
    make: async (name, limits) => {
      checkName(name);
      for (const place of places) {
        let directory = place;
        for (const part of name) {
          if (version === 2) await handDown(directory);
          directory = join(directory, part);
          await makeDirectory(directory);
        }
      }
      if (limits === undefined) return;
      for (const [controller, root] of roots) {
        for (const { file, value, optional } of control.limits(controller, limits)) {
          const path = join(root, ...name, file);
          if (optional === true && (await files.read(path)) === undefined) continue;
          await write(path, value);
        }
      }
    },
    enter: async (name, pid) => {
      checkName(name);
      for (const place of places) {
        const path = join(place, ...name, 'cgroup.procs');
        try {
          await files.write(path, String(pid));
        } catch (cause) {
          if (errorCode(cause) === 'ESRCH') return false;
          throw refused(`Process ${pid} cannot be moved to ${path}`, cause);
        }
      }
      return true;
    },
    members: async (name) => {
      checkName(name);
      const lists = await Promise.all(
        places.map((place) => files.read(join(place, ...name, 'cgroup.procs'))),
      );
      const pids = lists.flatMap((list) => list?.match(/\d+/g) ?? []).map(Number);
      return [...new Set(pids)].sort((a, b) => a - b);
    },
    children: async (name) => {
      checkName(name);
      const lists = await Promise.all(places.map((place) => files.directoriesIn(join(place, ...name))));
      return [...new Set(lists.flat())].sort();
    },
    remove: async (name) => {
      checkName(name);
      let gone = true;
      for (const place of places) {
        const path = join(place, ...name);
        try {
          await files.removeDirectory(path);
        } catch (cause) {
          const code = errorCode(cause);
          if (code === 'EBUSY' || code === 'ENOTEMPTY') gone = false;
          else if (code !== 'ENOENT') throw refused(`${path} cannot be removed`, cause);
        }
      }
      return gone;
    },
    oomKill: async (name) => {
      checkName(name);
      const root = roots.get('memory');
      if (root === undefined) return undefined;
      const number = async ({ file, key }: Counter): Promise<number> =>
        parseCounter((await files.read(join(root, ...name, file))) ?? '', key);
      if (!((await number(control.oomKills)) > 0)) return undefined;
      const [limitBytes, full] = await Promise.all([number(control.memoryLimit), number(control.fullness)]);
      return { atOwnLimit: control.isFull(full, limitBytes), limitBytes };
    },
  };
}

interface Counter {
  readonly file: string;
  /** First word of its line; absent where the file is the number alone. */
  readonly key?: string;
}

interface Setting {
  readonly file: string;
  readonly value: string;
  /** Not every kernel has it. */
  readonly optional?: true;
}

interface Controls {
  readonly limits: (controller: CgroupController, limits: CgroupLimits) => readonly Setting[];
  readonly oomKills: Counter;
  readonly memoryLimit: Counter;
  /** What tells whether the group's own limit was the reason. */
  readonly fullness: Counter;
  readonly isFull: (fullness: number, limitBytes: number) => boolean;
}

const CONTROLS: Readonly<Record<1 | 2, Controls>> = {
  1: {
    limits: (controller, { memoryBytes, cpus, pids }) => {
      switch (controller) {
        case 'memory':
          return [
            { file: 'memory.limit_in_bytes', value: String(memoryBytes) },
            // Memory and swap together; not smaller than the limit above, so after it.
            { file: 'memory.memsw.limit_in_bytes', value: String(memoryBytes), optional: true },
          ];
        case 'cpu':
          return [
            { file: 'cpu.cfs_period_us', value: String(CPU_PERIOD_US) },
            { file: 'cpu.cfs_quota_us', value: String(quotaUs(cpus)) },
          ];
        case 'pids':
          return [{ file: 'pids.max', value: String(pids) }];
      }
    },
    oomKills: { file: 'memory.oom_control', key: 'oom_kill' },
    memoryLimit: { file: 'memory.limit_in_bytes' },
    // memory.failcnt would say it, but stays 0 in kernels of today (seen with 6.18). The most there ever was can be
    // cache that went again; still, a group that was never full was not killed for that.
    fullness: { file: 'memory.max_usage_in_bytes' },
    isFull: (mostBytes, limitBytes) => mostBytes > limitBytes - HUGE_PAGE_BYTES,
  },
  2: {
    limits: (controller, { memoryBytes, cpus, pids }) => {
      switch (controller) {
        case 'memory':
          return [
            { file: 'memory.max', value: String(memoryBytes) },
            { file: 'memory.swap.max', value: '0', optional: true },
            // One without the other is of no use.
            { file: 'memory.oom.group', value: '1', optional: true },
          ];
        case 'cpu':
          return [{ file: 'cpu.max', value: `${quotaUs(cpus)} ${CPU_PERIOD_US}` }];
        case 'pids':
          return [{ file: 'pids.max', value: String(pids) }];
      }
    },
    oomKills: { file: 'memory.events', key: 'oom_kill' },
    memoryLimit: { file: 'memory.max' },
    // Counted when the limit was reached and there was nothing to reclaim.
    fullness: { file: 'memory.events', key: 'oom' },
    isFull: (times) => times > 0,
  },
};

function quotaUs(cpus: number): number {
  return Math.round(cpus * CPU_PERIOD_US);
}

/** Zero where the file does not have it: `max`, or a kernel that does not count it. */
function parseCounter(text: string, key: string | undefined): number {
  const found = key === undefined ? text.trim() : new RegExp(`^${key} (\\d+)$`, 'm').exec(text)?.[1];
  return /^\d{1,20}$/.test(found ?? '') ? Number(found) : 0;
}

function checkName(name: CgroupName): void {
  if (name.length > 0 && name.every((part) => PART.test(part))) return;
  throw new WrennError(
    'invalid_argument',
    `${JSON.stringify(name.join('/').slice(0, 80))} is no cgroup's name.`,
  );
}

function refused(what: string, cause: unknown): WrennError {
  return new WrennError('cgroups_unavailable', `${what} (${errorCode(cause) ?? 'for no known reason'}).`, {
    hint: 'Set `cgroups.mode` to `off` to run microVMs without limits of the host.',
    cause,
  });
}
