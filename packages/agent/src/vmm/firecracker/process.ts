/**
 * Processes by name: a pid and its start time, which together are never used again. The pid alone may by
 * now belong to somebody else, so nothing is signalled and nothing believed without the start time.
 */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';

export interface ProcessName {
  readonly pid: number;
  readonly startTime: string;
}

const KILL_DEADLINE_MS = 10_000;

/** Undefined if there is no such process, or if it is a zombie: that one runs no more. */
export async function readStartTime(pid: number): Promise<string | undefined> {
  let stat: string;
  try {
    stat = await readFile(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // The name in parentheses may hold blanks and parentheses: count from the last one. Field 3 follows it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const state = fields[0];
  if (state === undefined || state === 'Z' || state === 'X') return undefined;
  return fields[19];
}

export async function isAlive(name: ProcessName): Promise<boolean> {
  return (await readStartTime(name.pid)) === name.startTime;
}

/** Resolves when the process is gone, noticed within `intervalMs`; rejects only when aborted. */
export async function untilGone(name: ProcessName, intervalMs: number, signal: AbortSignal): Promise<void> {
  while (await isAlive(name)) await sleep(intervalMs, undefined, { signal, ref: false });
}

/** SIGKILL to each of those that still live; resolves when all are gone. */
export async function killAll(names: readonly ProcessName[]): Promise<void> {
  const signal = AbortSignal.timeout(KILL_DEADLINE_MS);
  await Promise.all(
    names.map(async (name) => {
      if (!(await isAlive(name))) return;
      try {
        process.kill(name.pid, 'SIGKILL');
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
      }
      try {
        await untilGone(name, 5, signal);
      } catch (error) {
        throw new WrennError('deadline_exceeded', `Process ${name.pid} did not end after SIGKILL.`, {
          hint: 'It hangs in the kernel, probably on a disk; look at /proc/<pid>/stack.',
          cause: error,
        });
      }
    }),
  );
}
