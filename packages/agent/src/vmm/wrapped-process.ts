/**
 * Starts a program wrapped in bubblewrap, finds the process that bwrap has made, and tells how it ended. What is in
 * the command line is others' business (confinement.ts, firecracker/jail.ts), but it must begin a chain of `exec`
 * that ends in `bwrap --info-fd 3 --unshare-pid --as-pid-1`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import {
  childrenOf,
  identify,
  isAlive,
  killProcess,
  type ProcessIdentity,
  plainEnvironment,
  waitUntilGone,
} from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { killAll } from './processes.ts';

/**
 * Descriptors of this process that become the child's; its stdin is /dev/null. Starting a process makes them
 * blocking, so a FIFO that nobody reads would stop a VMM that does not undo this.
 */
export interface WrappedOutput {
  readonly stdout: number;
  readonly stderr: number;
  /** More of them; the child has them from `FIRST_INHERITED` on. */
  readonly inherited?: readonly number[];
}

/** Standard streams and bwrap's own come before. */
export const FIRST_INHERITED = 4;

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

/** From the start of the first program until bwrap has told the VMM's pid: some 10 ms on an idle host. */
export const SETUP_TIMEOUT_MS = 10_000;
const INFO_LIMIT_BYTES = 4096;
const GONE_POLL_MS = 100;
/** When the host runs out of memory, a guest goes before the agent and before the rest of the host. */
const OOM_SCORE_ADJUSTMENT = 500;

/** On failure or abort no process is left. Throws `cancelled`, `vmm_died`, `deadline_exceeded`. */
export async function startWrapped(
  [program, args]: readonly [string, readonly string[]],
  { stdout, stderr, inherited = [] }: WrappedOutput,
  { signal, onSpawned }: ConfinedLaunchOptions,
): Promise<ConfinedProcess> {
  if (signal.aborted) throw cancelled(signal.reason);
  const child = spawn(program, args, {
    cwd: '/',
    detached: true,
    env: { ...plainEnvironment(), HOME: '/' },
    shell: false,
    stdio: ['ignore', stdout, stderr, 'pipe', ...inherited],
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

export function cancelled(cause: unknown): WrennError {
  return new WrennError('cancelled', 'The start of the VMM was cancelled.', { cause });
}
