/**
 * How a VMM is started, whichever it is: in the sandbox's network namespace, in mount, PID, IPC and UTS
 * namespaces of its own, as the sandbox's own user without groups or capabilities, with limits, in a
 * session of its own that outlives the agent. The reasons are in docs/decisions/0010-vmm-confinement.md.
 *
 * prlimit → nsenter → bwrap (one process by exec, stays as the wrapper) → setpriv → the VMM (one process, PID 1
 * of its namespace).
 */
import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive, missingProgram, type ProcessIdentity, plainEnvironment } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { type DeviceNode, provideDevices } from './devices.ts';
import {
  type ConfinedLaunchOptions,
  type ConfinedProcess,
  cancelled,
  SETUP_TIMEOUT_MS,
  startWrapped,
  type WrappedOutput,
} from './wrapped-process.ts';

/** A file of the host, and what a process finds it as. */
export interface Bind {
  readonly from: string;
  readonly to: string;
  readonly readOnly: boolean;
}

export interface ConfinedCommand extends WrappedOutput {
  /** Absolute path of the program. */
  readonly program: string;
  readonly args: readonly string[];
  readonly uid: number;
  readonly gid: number;
  /** Name of the network namespace, as `ip netns` knows it; undefined is an empty one of its own. */
  readonly netns: string | undefined;
  /** What the process finds in its mount namespace, at the same paths as on the host. */
  readonly readOnlyPaths: readonly string[];
  readonly writablePaths: readonly string[];
  /** And what it finds under another name. */
  readonly binds?: readonly Bind[];
  readonly devices: readonly string[];
  /** As in DeviceUser. */
  readonly devicesDir?: string | undefined;
  /** No file can be made larger than this; a process that tries gets EFBIG, or SIGXFSZ if it does not ignore it. */
  readonly maxFileBytes?: number;
}

/** On failure or abort no process is left. */
export type LaunchConfined = (
  command: ConfinedCommand,
  options: ConfinedLaunchOptions,
) => Promise<ConfinedProcess>;

const START_POLL_MS = 2;

const PUBLIC_DEVICES = ['/dev/null', '/dev/urandom'];

export const LIMITS = {
  core: 0,
  nofile: 1024,
  memlock: 64 * 1024,
  /** Threads count too, per user: one for each vCPU, QEMU's 64 for disk requests, and a few. */
  nproc: 256,
} as const;

/**
 * Where a process finds its own descriptors, if it was given more than the standard ones: a program that wants a path
 * opens `INHERITED_DIR/4`, say. It is the directory of that one process in /proc, and nothing else of it.
 */
export const INHERITED_DIR = '/fds';

/** For prlimit: what every VMM is limited to. */
export function limitArguments(maxFileBytes: number | undefined): string[] {
  return Object.entries({ ...LIMITS, fsize: maxFileBytes }).flatMap(([name, value]) =>
    value === undefined ? [] : [`--${name}=${value}:${value}`],
  );
}

export const launchConfined: LaunchConfined = async (command, options) => {
  if (options.signal.aborted) throw cancelled(options.signal.reason);
  const releases: (() => Promise<void>)[] = [];
  try {
    const devices = await provideDevices(command, releases);
    const vmm = await startWrapped(await confinedCommandLine(command, devices), command, options);
    if (releases.length > 0) await untilItRuns(vmm, command.uid);
    return vmm;
  } finally {
    for (const release of releases) await release();
  }
};

/** The program and arguments that start the command confined. Throws `missing_program`. */
export async function confinedCommandLine(
  command: ConfinedCommand,
  devices: readonly DeviceNode[],
): Promise<[string, string[]]> {
  checkIdentity(command);
  const { program, readOnlyPaths, writablePaths, binds = [] } = command;
  checkPaths([program, ...readOnlyPaths, ...writablePaths, ...binds.flatMap(({ from, to }) => [from, to])]);
  const [prlimit, nsenter, bwrap, setpriv] = await Promise.all([
    findProgram('prlimit'),
    findProgram('nsenter'),
    findProgram('bwrap'),
    findProgram('setpriv'),
  ]);
  const enterNetwork =
    command.netns === undefined ? [] : [nsenter, `--net=/run/netns/${command.netns}`, '--'];
  return [
    prlimit,
    [
      ...limitArguments(command.maxFileBytes),
      '--',
      ...enterNetwork,
      bwrap,
      '--info-fd',
      '3',
      '--unshare-pid',
      '--as-pid-1',
      '--unshare-ipc',
      '--unshare-uts',
      '--unshare-cgroup-try',
      ...(command.netns === undefined ? ['--unshare-net'] : []),
      ...mounts(command, devices),
      '--chdir',
      '/',
      '--',
      setpriv,
      `--reuid=${command.uid}`,
      `--regid=${command.gid}`,
      '--clear-groups',
      '--bounding-set=-all',
      '--inh-caps=-all',
      '--ambient-caps=-all',
      '--no-new-privs',
      '--',
      program,
      ...command.args,
    ],
  ];
}

/** Later mounts lie over earlier ones. The root itself is an empty tmpfs, made read-only at the end. */
function mounts(
  { program, readOnlyPaths, writablePaths, binds = [], inherited = [] }: ConfinedCommand,
  devices: readonly DeviceNode[],
): string[] {
  const bind = (how: string, path: string): string[] => [how, path, path];
  // What the distribution installed is public; /usr/local is whatever the machine's owner put there.
  const inUsr = (path: string): boolean => path.startsWith('/usr/') && !path.startsWith('/usr/local/');
  const system = ['/lib', '/lib64', '/etc/ld.so.cache'];
  const nodes = [...PUBLIC_DEVICES.map((path) => ({ path, node: path })), ...devices];
  return [
    // Directories that bwrap makes for a mount on its way are root's alone; made by name, all may pass.
    ...ancestorsOf([
      ...system,
      ...nodes.map(({ path }) => path),
      program,
      ...readOnlyPaths,
      ...writablePaths,
      ...binds.map(({ to }) => to),
    ]).flatMap((path) => ['--dir', path]),
    ...bind('--ro-bind', '/usr'),
    '--tmpfs',
    '/usr/local',
    ...system.flatMap((path) => bind('--ro-bind-try', path)),
    ...nodes.flatMap(({ node, path }) => ['--dev-bind', node, path]),
    ...[program, ...readOnlyPaths].filter((path) => !inUsr(path)).flatMap((path) => bind('--ro-bind', path)),
    ...writablePaths.flatMap((path) => bind('--bind', path)),
    ...binds.flatMap(({ from, to, readOnly }) => [readOnly ? '--ro-bind' : '--bind', from, to]),
    // The process that binds is the one that becomes the program.
    ...(inherited.length === 0 ? [] : ['--ro-bind', '/proc/self/fd', INHERITED_DIR]),
    '--remount-ro',
    '/',
  ];
}

/** Every directory above one of the paths, outermost first. */
function ancestorsOf(paths: readonly string[]): string[] {
  const ancestors = paths.flatMap((path) => {
    const names = path.split('/').slice(1, -1);
    return names.map((_, depth) => `/${names.slice(0, depth + 1).join('/')}`);
  });
  return [...new Set(ancestors)].sort();
}

/** Where the distribution keeps a program; the PATH of whoever started the agent is not asked. */
export async function findProgram(name: string): Promise<string> {
  for (const directory of (plainEnvironment().PATH ?? '').split(':')) {
    const path = `${directory}/${name}`;
    try {
      await access(path, constants.X_OK);
      return path;
    } catch {
      // Not in this directory; the next one may have it.
    }
  }
  throw missingProgram(name);
}

/** bwrap tells of its child before it mounts; the child's program is the first to be the user's own. */
async function untilItRuns(vmm: ProcessIdentity, uid: number): Promise<void> {
  const deadline = performance.now() + SETUP_TIMEOUT_MS;
  while (performance.now() < deadline && (await isAlive(vmm))) {
    const owner = await stat(`/proc/${vmm.pid}`).catch(() => undefined);
    if (owner?.uid === uid) return;
    await sleep(START_POLL_MS);
  }
}

export function checkIdentity(of: Pick<ConfinedCommand, 'netns' | 'uid' | 'gid'>): void {
  check('netns', of.netns === undefined || /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(of.netns));
  check('uid', Number.isInteger(of.uid) && of.uid > 0);
  check('gid', Number.isInteger(of.gid) && of.gid > 0);
}

export function checkPaths(paths: readonly string[]): void {
  for (const path of paths) check('paths', path.startsWith('/') && !path.includes('\0'));
}

function check(field: string, fine: boolean): void {
  if (!fine) throw new WrennError('invalid_argument', `The VMM's ${field} cannot be used.`, { field });
}
