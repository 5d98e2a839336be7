/**
 * How a VMM is started, whichever it is: in the sandbox's network namespace, in mount, PID, IPC and UTS
 * namespaces of its own, as the sandbox's own user without groups or capabilities, with limits, in a
 * session of its own that outlives the agent. The reasons are in docs/decisions/0010-vmm-confinement.md.
 *
 * prlimit → nsenter → bwrap (one process by exec, stays as the wrapper) → setpriv → the VMM (one process, PID 1
 * of its namespace).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { access, stat, writeFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  childrenOf,
  identify,
  isAlive,
  killProcess,
  missingProgram,
  type ProcessIdentity,
  plainEnvironment,
  waitUntilGone,
} from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { type DeviceNode, provideDevices } from './devices.ts';
import { killAll } from './processes.ts';

export interface ConfinedCommand {
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
  readonly devices: readonly string[];
  /**
   * Descriptors of this process that become the child's; its stdin is /dev/null. Starting a process makes
   * them blocking, so a FIFO that nobody reads would stop a VMM that does not undo this.
   */
  readonly stdout: number;
  readonly stderr: number;
  /** No file can be made larger than this; a process that tries gets EFBIG, or SIGXFSZ if it does not ignore it. */
  readonly maxFileBytes?: number;
}

/** As the operating system tells a parent; both null where nobody was there to be told. */
export interface ExitStatus {
  readonly code: number | null;
  readonly signal: string | null;
}

export interface ConfinedProcess extends ProcessIdentity {
  /** Processes that stand between the agent and the command, outermost first. */
  readonly wrappers: readonly ProcessIdentity[];
  /** Resolves when the command is gone; never rejects. */
  readonly exited: Promise<ExitStatus>;
}

export interface ConfinedLaunchOptions {
  readonly signal: AbortSignal;
  /** As soon as there is a process to be cleaned up, and before anything else can fail. */
  readonly onSpawned: (process: ProcessIdentity, wrappers: readonly ProcessIdentity[]) => Promise<void>;
}

/** On failure or abort no process is left. */
export type LaunchConfined = (
  command: ConfinedCommand,
  options: ConfinedLaunchOptions,
) => Promise<ConfinedProcess>;

/** From the start of the first program until bwrap has told the VMM's pid: some 10 ms on an idle host. */
const SETUP_TIMEOUT_MS = 10_000;
const START_POLL_MS = 2;
const INFO_LIMIT_BYTES = 4096;
const GONE_POLL_MS = 100;
/** When the host runs out of memory, a guest goes before the agent and before the rest of the host. */
const OOM_SCORE_ADJUSTMENT = 500;

const PUBLIC_DEVICES = ['/dev/null', '/dev/urandom'];

const LIMITS = {
  core: 0,
  nofile: 1024,
  memlock: 64 * 1024,
  /** Threads count too, per user: one for each vCPU, QEMU's 64 for disk requests, and a few. */
  nproc: 256,
} as const;

export const launchConfined: LaunchConfined = async (command, options) => {
  if (options.signal.aborted) throw cancelled(options.signal.reason);
  const releases: (() => Promise<void>)[] = [];
  try {
    const devices = await provideDevices(command, releases);
    const vmm = await start(command, await confinedCommandLine(command, devices), options);
    if (releases.length > 0) await untilItRuns(vmm, command.uid);
    return vmm;
  } finally {
    for (const release of releases) await release();
  }
};

async function start(
  command: ConfinedCommand,
  [program, args]: readonly [string, string[]],
  { signal, onSpawned }: ConfinedLaunchOptions,
): Promise<ConfinedProcess> {
  if (signal.aborted) throw cancelled(signal.reason);
  const child = spawn(program, args, {
    cwd: '/',
    detached: true,
    env: { ...plainEnvironment(), HOME: '/' },
    shell: false,
    stdio: ['ignore', command.stdout, command.stderr, 'pipe'],
  });
  const ended = endOf(child);
  const childPid = readChildPid(child.stdio[3]);
  // Awaited below; if something else fails before, this must not count as unhandled.
  childPid.catch(() => {});
  child.unref();
  const { pid: wrapperPid } = child;
  if (wrapperPid === undefined) {
    throw new WrennError('internal', `${program} could not be started.`, { cause: await ended });
  }
  let wrapper: ProcessIdentity | undefined;
  let vmm: ProcessIdentity | undefined;
  try {
    wrapper = await identify(wrapperPid);
    if (wrapper === undefined) throw await diedEarly(ended);
    const pid = await childPid;
    vmm = pid === undefined ? undefined : await identify(pid);
    if (vmm === undefined) throw await diedEarly(ended);
    await onSpawned(vmm, [wrapper]);
    await preferForOom(vmm);
    if (signal.aborted) throw cancelled(signal.reason);
    return { ...vmm, wrappers: [wrapper], exited: exitOfCommand(vmm, ended) };
  } catch (error) {
    if (vmm !== undefined && wrapper !== undefined) await killAll([vmm, wrapper]);
    else if (wrapper !== undefined) await killWithChildren(wrapper);
    throw error;
  }
}

/** The program and arguments that start the command confined. Throws `missing_program`. */
export async function confinedCommandLine(
  command: ConfinedCommand,
  devices: readonly DeviceNode[],
): Promise<[string, string[]]> {
  check('netns', command.netns === undefined || /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(command.netns));
  check('uid', Number.isInteger(command.uid) && command.uid > 0);
  check('gid', Number.isInteger(command.gid) && command.gid > 0);
  const { program, readOnlyPaths, writablePaths } = command;
  for (const path of [program, ...readOnlyPaths, ...writablePaths]) {
    check('paths', path.startsWith('/') && !path.includes('\0'));
  }
  const [prlimit, nsenter, bwrap, setpriv] = await Promise.all([
    findProgram('prlimit'),
    findProgram('nsenter'),
    findProgram('bwrap'),
    findProgram('setpriv'),
  ]);
  const limits = Object.entries({ ...LIMITS, fsize: command.maxFileBytes }).flatMap(([name, value]) =>
    value === undefined ? [] : [`--${name}=${value}:${value}`],
  );
  const enterNetwork =
    command.netns === undefined ? [] : [nsenter, `--net=/run/netns/${command.netns}`, '--'];
  return [
    prlimit,
    [
      ...limits,
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
  { program, readOnlyPaths, writablePaths }: ConfinedCommand,
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
    ]).flatMap((path) => ['--dir', path]),
    ...bind('--ro-bind', '/usr'),
    '--tmpfs',
    '/usr/local',
    ...system.flatMap((path) => bind('--ro-bind-try', path)),
    ...nodes.flatMap(({ node, path }) => ['--dev-bind', node, path]),
    ...[program, ...readOnlyPaths].filter((path) => !inUsr(path)).flatMap((path) => bind('--ro-bind', path)),
    ...writablePaths.flatMap((path) => bind('--bind', path)),
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

/**
 * What bwrap tells as soon as it has made the child; undefined when it ended without telling. To be called
 * in the same turn as the start, as Node empties the pipes of a process that has ended.
 */
async function readChildPid(stream: unknown): Promise<number | undefined> {
  if (!(stream instanceof Readable)) throw new WrennError('internal', 'The pipe to bwrap is missing.');
  let timer: NodeJS.Timeout | undefined;
  const text = await new Promise<string>((resolve, reject) => {
    let told = '';
    timer = setTimeout(() => reject(tooSlow()), SETUP_TIMEOUT_MS);
    stream.on('data', (chunk: Buffer) => {
      told += chunk.toString('latin1');
      if (told.includes('}') || told.length > INFO_LIMIT_BYTES) resolve(told);
    });
    // The reason is worth nothing: 'close' follows.
    stream.on('error', () => {});
    stream.on('close', () => resolve(told));
    stream.on('end', () => resolve(told));
  }).finally(() => {
    clearTimeout(timer);
    stream.destroy();
  });
  const pid = /"child-pid": ([1-9][0-9]{0,9})\b/.exec(text)?.[1];
  return pid === undefined ? undefined : Number(pid);
}

function tooSlow(): WrennError {
  return new WrennError('deadline_exceeded', `bwrap did not start within ${SETUP_TIMEOUT_MS} ms.`, {
    hint: 'The host may be overloaded; try again.',
  });
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

type End = ExitStatus & { readonly error?: Error };

function endOf(child: ChildProcess): Promise<End> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ code: null, signal: null, error }));
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
}

/** bwrap ends with the command's own code, or 128 and the signal. It may be killed by itself: then look. */
async function exitOfCommand(vmm: ProcessIdentity, ended: Promise<End>): Promise<ExitStatus> {
  const { code, signal } = await ended;
  if (!(await isAlive(vmm))) return { code, signal };
  await waitUntilGone(vmm, { pollMs: GONE_POLL_MS });
  return { code: null, signal: null };
}

async function diedEarly(ended: Promise<End>): Promise<WrennError> {
  const { code, signal } = await ended;
  const how = signal === null ? `with code ${code}` : `by ${signal}`;
  return new WrennError('vmm_died', `The VMM's confinement ended ${how} before the VMM had started.`, {
    hint: "Its last words are in the agent's log; `wrenn doctor` checks what it needs.",
  });
}

/**
 * For a start that failed: whether the wrapper has made its child yet is not known, so it is held first. With
 * its child gone it goes on, and ends by itself.
 */
async function killWithChildren(wrapper: ProcessIdentity): Promise<void> {
  if (!(await killProcess(wrapper, 'SIGSTOP'))) return;
  const pids = await childrenOf(wrapper.pid);
  const children = (await Promise.all(pids.map(identify))).filter((child) => child !== undefined);
  for (const child of children) await killAll([child]);
  if (children.length > 0) await killProcess(wrapper, 'SIGCONT');
  await killAll(children.length > 0 ? [...children, wrapper] : [wrapper]);
}

/** A refusal is no failure: containers may forbid it, and a process that died is noticed elsewhere. */
async function preferForOom({ pid }: ProcessIdentity): Promise<void> {
  await writeFile(`/proc/${pid}/oom_score_adj`, String(OOM_SCORE_ADJUSTMENT)).catch(() => {});
}

function cancelled(cause: unknown): WrennError {
  return new WrennError('cancelled', 'The start of the VMM was cancelled.', { cause });
}

function check(field: string, fine: boolean): void {
  if (!fine) throw new WrennError('invalid_argument', `The VMM's ${field} cannot be used.`, { field });
}
