/**
 * Which control groups this machine lets us make, found by looking: nothing is changed.
 *
 * A controller is in one hierarchy: that of version 2, or one of version 1 that it may share with others. A machine
 * can have both, with the controllers in either (systemd's hybrid layout, containers). The version is used that has
 * more of the controllers that are wanted; see cgroups(7) and the kernel's admin-guide/cgroup-v2.rst.
 */
import { join } from 'node:path';
import { type CgroupFiles, createCgroupFiles } from './cgroup-files.ts';

export const CGROUP_CONTROLLERS = ['memory', 'cpu', 'pids'] as const;
export type CgroupController = (typeof CGROUP_CONTROLLERS)[number];

export interface CgroupHierarchies {
  readonly version: 1 | 2;
  /** The directory below which each controller's groups are made; with version 2 one for all. Never empty. */
  readonly roots: ReadonlyMap<CgroupController, string>;
}

export interface NoCgroups {
  readonly version: 'none';
  /** In one line, for people. */
  readonly reason: string;
}

export interface CgroupMount {
  readonly version: 1 | 2;
  readonly mountPoint: string;
  readonly readOnly: boolean;
  /** Those of version 1; version 2 lists its own in a file. */
  readonly controllers: readonly CgroupController[];
}

const MOUNT_INFO = '/proc/self/mountinfo';

export async function findCgroups(
  files: CgroupFiles = createCgroupFiles(),
): Promise<CgroupHierarchies | NoCgroups> {
  const mounts = parseCgroupMounts((await files.read(MOUNT_INFO)) ?? '');
  if (mounts.length === 0) return { version: 'none', reason: 'no cgroup hierarchy is mounted' };
  const problems: string[] = [];
  const found = { 1: new Map<CgroupController, string>(), 2: new Map<CgroupController, string>() };
  for (const mount of mounts) {
    const usable = await usableControllers(mount, files);
    if (typeof usable === 'string') problems.push(usable);
    else for (const controller of usable) found[mount.version].set(controller, mount.mountPoint);
  }
  const version = found[2].size >= found[1].size ? 2 : 1;
  const roots = found[version];
  if (roots.size > 0) return { version, roots };
  const none = `no hierarchy has any of ${CGROUP_CONTROLLERS.join(', ')}`;
  return { version: 'none', reason: problems.length > 0 ? [...new Set(problems)].join('; ') : none };
}

export function missingControllers(found: CgroupHierarchies | NoCgroups): CgroupController[] {
  return CGROUP_CONTROLLERS.filter((controller) => 'reason' in found || !found.roots.has(controller));
}

/** As `v2: memory, cpu, pids`, or `off: v2 is mounted read-only`. */
export function describeCgroups(found: CgroupHierarchies | NoCgroups): string {
  if ('reason' in found) return `off: ${found.reason}`;
  const missing = missingControllers(found);
  const present = CGROUP_CONTROLLERS.filter((controller) => found.roots.has(controller));
  const without = missing.length === 0 ? '' : `; not ${missing.join(', ')}`;
  return `v${found.version}: ${present.join(', ')}${without}`;
}

/** Parses /proc/self/mountinfo, see proc_pid_mountinfo(5). Where two are mounted at one place, the later is seen. */
export function parseCgroupMounts(text: string): CgroupMount[] {
  const mounts = new Map<string, CgroupMount>();
  for (const line of text.split('\n')) {
    const [before, after] = line.split(' - ', 2);
    const [, , , , escapedPoint, options] = before?.split(' ') ?? [];
    const [type, , superOptions] = after?.split(' ') ?? [];
    if (escapedPoint === undefined || options === undefined) continue;
    const mountPoint = unescapeOctal(escapedPoint);
    mounts.delete(mountPoint);
    if (type !== 'cgroup' && type !== 'cgroup2') continue;
    const words = superOptions?.split(',') ?? [];
    mounts.set(mountPoint, {
      version: type === 'cgroup2' ? 2 : 1,
      mountPoint,
      readOnly: [...options.split(','), ...words].includes('ro'),
      controllers: type === 'cgroup' ? CGROUP_CONTROLLERS.filter((name) => words.includes(name)) : [],
    });
  }
  return [...mounts.values()];
}

/** mountinfo writes a blank in a path as `\040`, and likewise tab, newline and backslash. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-3][0-7]{2})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** What of the mount we can use, or why nothing. */
async function usableControllers(
  { version, mountPoint, readOnly, controllers }: CgroupMount,
  files: CgroupFiles,
): Promise<readonly CgroupController[] | string> {
  const there =
    version === 2 ? words(await files.read(join(mountPoint, 'cgroup.controllers'))) : new Set(controllers);
  const wanted = CGROUP_CONTROLLERS.filter((controller) => there.has(controller));
  if (wanted.length === 0) return [];
  if (readOnly) return `v${version} is mounted read-only`;
  if (!(await files.mayChange(mountPoint))) return `v${version} may not be changed by this user`;
  if (version === 1) return wanted;
  const enabled = words(await files.read(join(mountPoint, 'cgroup.subtree_control')));
  if (wanted.every((controller) => enabled.has(controller)) || (await mayEnable(mountPoint, files))) {
    return wanted;
  }
  const already = wanted.filter((controller) => enabled.has(controller));
  if (already.length > 0) return already;
  return 'v2 gives no controllers to groups below its root, as that of this container has processes in it itself';
}

/**
 * Of all groups with processes in them only the true root of the hierarchy hands controllers down. It has no
 * `cgroup.type`; what a container sees as its root has.
 */
async function mayEnable(root: string, files: CgroupFiles): Promise<boolean> {
  if ((await files.read(join(root, 'cgroup.type'))) === undefined) return true;
  return (await files.read(join(root, 'cgroup.procs')))?.trim() === '';
}

function words(text: string | undefined): ReadonlySet<string> {
  return new Set(text?.trim().split(/\s+/) ?? []);
}
