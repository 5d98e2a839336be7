/** VMMs whose agent died before it could write their pid down: found by their uid and their sandbox's id. */
import { readdir, readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { hasErrno, identify, isAlive, killProcess, type ProcessIdentity } from '@wrenn/host';
import { mapAtOnce } from './at-once.ts';
import type { KillStrays, Suspect } from './deps.ts';

/** Most end within milliseconds; what has not by then hangs, or is not seen to end. */
const FIRST_POLL_MS = 10;
const LONGEST_POLL_MS = 500;
const FILES_AT_ONCE = 32;

/** What stands around a VMM, or is about to become one; these run as root. The jailer may have any name. */
const WRAPPERS = ['prlimit', 'nsenter', 'bwrap', 'setpriv'];

/**
 * Kills the known processes, and every one that has a suspect's id in its command line and runs as its uid or is a
 * wrapper. Both must fit, so that another agent's VMM with the same uid is never hit. One look at all processes for all
 * suspects; then again for those of whom there was anything, until there is nothing more of them: a process that is
 * looked at before it forks leaves a child for the next look.
 */
export const killStrays: KillStrays = async (suspects, signal) => {
  let left = suspects;
  for (let pauseMs = FIRST_POLL_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_POLL_MS)) {
    let why: ReadonlyMap<string, string>;
    try {
      why = await killOnce(left);
    } catch (error) {
      // For want of descriptors, say: who cannot be looked for may be there.
      why = new Map(left.map(({ id }) => [id, `its processes cannot be looked for: ${String(error)}`]));
    }
    if (why.size === 0 || signal.aborted) return why;
    left = left.filter(({ id }) => why.has(id));
    await sleep(pauseMs, undefined, { signal }).catch(() => {});
  }
};

/** Of whom there was anything, and what. */
async function killOnce(suspects: readonly Suspect[]): Promise<Map<string, string>> {
  const known = suspects.flatMap(({ id, known: all }) => all.map((identity) => ({ id, identity })));
  const found = [...known, ...(await findProcesses(suspects))];
  const left = new Map<string, string>();
  await mapAtOnce(FILES_AT_ONCE, found, async ({ id, identity }) => {
    if (await killProcess(identity, 'SIGKILL')) left.set(id, `its process ${identity.pid} does not end`);
  });
  return left;
}

interface FoundProcess {
  readonly id: string;
  readonly identity: ProcessIdentity;
}

async function findProcesses(suspects: readonly Suspect[]): Promise<FoundProcess[]> {
  const wanted = suspects.filter(({ uid }) => uid !== undefined);
  if (wanted.length === 0) return [];
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await mapAtOnce(FILES_AT_ONCE, pids, (pid) => suspectedOf(pid, wanted));
  return found.filter((one) => one !== undefined);
}

async function suspectedOf(pid: number, suspects: readonly Suspect[]): Promise<FoundProcess | undefined> {
  // Identified first: if the pid changes hands afterwards, the identity is of a process that is gone.
  const identity = await identify(pid);
  if (identity === undefined) return undefined;
  const line = await commandLineOf(pid);
  const suspect = suspects.find(({ id }) => line.includes(id));
  if (suspect === undefined || !(await isAlive(identity))) return undefined;
  const { id, uid } = suspect;
  const words = line.split('\0');
  const isWrapper = WRAPPERS.includes(basename(words[0] ?? '')) || words[words.indexOf('--id') + 1] === id;
  return isWrapper || (await realUid(pid)) === uid ? { id, identity } : undefined;
}

/** Of any thread: a process that has lost its first one shows none of its own. */
async function commandLineOf(pid: number): Promise<string> {
  const own = await readProc(pid, 'cmdline');
  if (own !== '') return own;
  for (const thread of await orNothing(readdir(`/proc/${pid}/task`), [])) {
    const text = await readProc(pid, `task/${thread}/cmdline`);
    if (text !== '') return text;
  }
  return '';
}

async function realUid(pid: number): Promise<number | undefined> {
  const match = /^Uid:\s+(\d+)/m.exec(await readProc(pid, 'status'));
  return match === null ? undefined : Number(match[1]);
}

/** Empty once the process is gone. */
function readProc(pid: number, name: string): Promise<string> {
  return orNothing(readFile(`/proc/${pid}/${name}`, 'utf8'), '');
}

/** A process that is gone has nothing; any other failure says nothing about it. */
async function orNothing<T>(reading: Promise<T>, nothing: T): Promise<T> {
  try {
    return await reading;
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ESRCH')) return nothing;
    throw error;
  }
}
