/** VMMs whose agent died before it could write their pid down: found by their uid and their sandbox's id. */
import { readdir, readFile } from 'node:fs/promises';
import { identify, isAlive, killProcess, type ProcessIdentity, waitUntilGone } from '@wrenn/host';
import type { KillStrays } from './deps.ts';

const POLL_MS = 10;

/**
 * Kills every process that runs as `uid` and has `id` in its command line, and the given ones. Both must fit,
 * so that another agent's VMM with the same uid is never hit. Resolves when all are gone.
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
      const fits = (await realUid(pid)) === uid && (await readProc(pid, 'cmdline')).includes(id);
      return fits ? identity : undefined;
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
