import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { identify, isAlive, killProcess, waitUntilGone } from './process.ts';

/** Its first thread ends by the system call itself, so the process is a zombie with a thread that goes on. */
const HEADLESS = 'use threads; threads->create(sub { sleep 60 }); syscall(60, 0)';

it('that has lost its first thread lives on, and is killed all the same', async () => {
  const child = spawn('perl', ['-e', HEADLESS]);
  await once(child, 'spawn');
  const ended = once(child, 'exit');
  const identity = await identify(child.pid ?? 0);
  if (identity === undefined) throw new Error('there is no such process');
  await expect.poll(() => readFile(`/proc/${identity.pid}/stat`, 'utf8')).toMatch(/\) Z /);
  expect(await isAlive(identity)).toBe(true);
  expect(await killProcess(identity, 'SIGKILL')).toBe(true);
  await ended;
  await waitUntilGone(identity, { pollMs: 5, signal: AbortSignal.timeout(5_000) });
});
