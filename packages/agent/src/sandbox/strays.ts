/** VMMs whose agent died before it could write their pid down: found by their uid and their sandbox's id. */
import { readdir, readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { identify, isAlive, killProcess, type ProcessIdentity, waitUntilGone } from '@wrenn/host';
import type { KillStrays } from './deps.ts';

const POLL_MS = 10;

/** What stands around a VMM, or is about to become one; these run as root. The jailer may have any name. */
const WRAPPERS = ['prlimit', 'nsenter', 'bwrap', 'setpriv'];
/** A process that is looked at before it forks leaves a child for the next look. */
const MAX_LOOKS = 5;

/**
 * Kills every process that has `id` in its command line and runs as `uid` or is a wrapper, and the given ones. Both
 * must fit, so that another agent's VMM with the same uid is never hit. Resolves when all are gone.
 */
export const killStrays: KillStrays = async (id, uid, known, signal) => {
  await end(known, signal);
  if (uid === undefined) return;
  for (let look = 0; look < MAX_LOOKS; look++) {
    const found = await findProcesses(id, uid);
    if (found.length === 0) return;
    await end(found, signal);
  }
};

async function end(processes: readonly ProcessIdentity[], signal: AbortSignal): Promise<void> {
  await Promise.all(
    processes.map(async (identity) => {
      await killProcess(identity, 'SIGKILL');
      if (await isAlive(identity)) await waitUntilGone(identity, { signal, pollMs: POLL_MS });
    }),
  );
}

async function findProcesses(id: string, uid: number): Promise<ProcessIdentity[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const identities = await Promise.all(
    pids.map(async (pid) => {
      // Identified first: if the pid changes hands afterwards, the identity is of a process that is gone.
      const identity = await identify(pid);
      if (identity === undefined) return undefined;
      const words = await commandLineOf(pid);
      if (!words.some((word) => word.includes(id)) || !(await isAlive(identity))) return undefined;
      const isWrapper =
        WRAPPERS.includes(basename(words[0] ?? '')) || words[words.indexOf('--id') + 1] === id;
      return isWrapper || (await realUid(pid)) === uid ? identity : undefined;
    }),
  );
  return identities.filter((identity) => identity !== undefined);
}

/** Of any thread: a process that has lost its first one shows none of its own. */
async function commandLineOf(pid: number): Promise<string[]> {
  const threads = await readdir(`/proc/${pid}/task`).catch(() => []);
  for (const place of ['', ...threads.map((thread) => `task/${thread}/`)]) {
    const text = await readProc(pid, `${place}cmdline`);
    if (text !== '') return text.split('\0');
  }
  return [];
}

async function realUid(pid: number): Promise<number | undefined> {
  const match = /^Uid:\s+(\d+)/m.exec(await readProc(pid, 'status'));
  return match === null ? undefined : Number(match[1]);
}

/** Empty once the process is gone. */
async function readProc(pid: number, name: string): Promise<string> {
  try {
    return await readFile(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return '';
  }
}
