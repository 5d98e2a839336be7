/** VMMs whose agent died before it could write their pid down: found by their uid and their sandbox's id. */
import { readdir, readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { identify, isAlive, killProcess, type ProcessIdentity, waitUntilGone } from '@wrenn/host';
import type { KillStrays } from './deps.ts';

const POLL_MS = 10;

/** What stands around a VMM, or is about to become one; these run as root. Releases call it `jailer-v1.16.1-x86_64`. */
const WRAPPER = /^(prlimit|nsenter|bwrap|setpriv|jailer(-.*)?)$/;

/**
 * Kills every process that has `id` in its command line and runs as `uid` or is a wrapper, and the given ones. Both
 * must fit, so that another agent's VMM with the same uid is never hit. Resolves when all are gone.
 */
export const killStrays: KillStrays = async (id, uid, known, signal) => {
  const found = uid === undefined ? [] : await findProcesses(id, uid);
  const all = [...known, ...found];
  await Promise.all(
    all.map(async (identity) => {
      await killProcess(identity, 'SIGKILL');
      if (await isAlive(identity)) await waitUntilGone(identity, { signal, pollMs: POLL_MS });
    }),
  );
};

async function findProcesses(id: string, uid: number): Promise<ProcessIdentity[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const identities = await Promise.all(
    pids.map(async (pid) => {
      // Identified first: if the pid changes hands afterwards, the identity is of a process that is gone.
      const identity = await identify(pid);
      if (identity === undefined) return undefined;
      const commandLine = await readProc(pid, 'cmdline');
      if (!commandLine.includes(id)) return undefined;
      const program = basename(commandLine.slice(0, commandLine.indexOf('\0')));
      return WRAPPER.test(program) || (await realUid(pid)) === uid ? identity : undefined;
    }),
  );
  return identities.filter((identity) => identity !== undefined);
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
