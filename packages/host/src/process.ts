/**
 * Processes named so that a recycled pid is never mistaken for the one that had it before: the pid and
 * the time it started, in clock ticks since boot (field 22 of /proc/<pid>/stat, see proc(5)).
 */
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { hasErrno } from './errno.ts';

export interface ProcessIdentity {
  readonly pid: number;
  readonly startTime: string;
}

interface ProcessStat {
  readonly state: string;
  readonly parentPid: number;
  readonly threads: number;
  readonly startTime: string;
}

/** Parses /proc/<pid>/stat. The second field, the name, may itself hold blanks and parentheses. */
export function parseProcessStat(text: string): ProcessStat | undefined {
  const rest = text
    .slice(text.lastIndexOf(')') + 2)
    .trim()
    .split(' ');
  const state = rest[0];
  const parentPid = Number(rest[1]);
  const threads = Number(rest[17]);
  const startTime = rest[19];
  if (state === undefined || !/^[A-Z]$/i.test(state)) return undefined;
  if (startTime === undefined || !/^\d+$/.test(startTime) || !Number.isInteger(parentPid)) return undefined;
  if (!Number.isInteger(threads)) return undefined;
  return { state, parentPid, threads, startTime };
}

/** Undefined when it is gone: ENOENT, or ESRCH when it ends in between. Anything else says nothing about it, and is thrown. */
async function readStat(pid: number): Promise<ProcessStat | undefined> {
  try {
    return parseProcessStat(await readFile(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ESRCH')) return undefined;
    throw error;
  }
}

/** Who has this pid now; undefined when nobody does. */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  const stat = await readStat(pid);
  return stat && { pid, startTime: stat.startTime };
}

/**
 * Whether that very process still runs. A zombie holds nothing any more, unless it is only the first thread that has
 * ended: the others go on with all that the process has, and whoever wants to outlive a kill would do just that. One that
 * cannot be looked at, for want of descriptors for example, counts as alive: what it holds must not be given to another.
 */
export function isAlive(identity: ProcessIdentity): Promise<boolean> {
  return isSurelyAlive(identity).catch(() => true);
}

/** Throws where it cannot be looked at. */
async function isSurelyAlive(identity: ProcessIdentity): Promise<boolean> {
  const stat = await readStat(identity.pid);
  if (stat === undefined || stat.startTime !== identity.startTime || stat.state === 'X') return false;
  return stat.state !== 'Z' || stat.threads > 1;
}

/** Resolves once the process is gone; rejects with the signal's reason when aborted. */
export async function waitUntilGone(
  identity: ProcessIdentity,
  options: { readonly signal?: AbortSignal; readonly pollMs: number },
): Promise<void> {
  while (await isAlive(identity)) {
    await sleep(options.pollMs, undefined, options.signal === undefined ? {} : { signal: options.signal });
  }
}

/** Sends a signal to that very process. Returns false when it is gone already; throws where that cannot be told. */
export async function killProcess(identity: ProcessIdentity, signal: NodeJS.Signals): Promise<boolean> {
  if (!(await isSurelyAlive(identity))) return false;
  try {
    process.kill(identity.pid, signal);
    return true;
  } catch (error) {
    if (hasErrno(error, 'ESRCH')) return false;
    throw error;
  }
}

/** Those whose real user this is. */
export async function processesOfUser(uid: number): Promise<ProcessIdentity[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      // Identified first: if the pid changes hands afterwards, the identity is of a process that is gone.
      const identity = await identify(pid);
      const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
      return Number(/^Uid:\s+(\d+)/m.exec(status)?.[1] ?? Number.NaN) === uid ? identity : undefined;
    }),
  );
  return found.filter((identity) => identity !== undefined);
}

/** The pids of the direct children, in no particular order. */
export async function childrenOf(pid: number): Promise<number[]> {
  const entries = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const stats = await Promise.all(
    entries.map(async (candidate) => ({ candidate, stat: await readStat(candidate) })),
  );
  return stats.filter(({ stat }) => stat?.parentPid === pid).map(({ candidate }) => candidate);
}
