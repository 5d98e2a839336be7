/** The lock by which one agent has its directory for itself, on a real directory. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { isLocked, lockHolder, takeLock } from './lock.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wrenn-lock-'));
});
afterEach(async () => await rm(dir, { recursive: true }));

it('is had by one agent, and told of it', async () => {
  const lockFile = join(dir, 'agent.lock');
  const lock = await takeLock(lockFile);
  await expect(takeLock(lockFile)).rejects.toMatchObject({
    code: 'agent_already_running',
    message: expect.stringContaining(String(process.pid)),
  });
  expect(await isLocked(lockFile)).toBe(true);
  expect(await lockHolder(lockFile)).toBe(process.pid);
  await lock.release();
  expect(await isLocked(lockFile)).toBe(false);
  await (await takeLock(lockFile)).release();
});

it('is had though nothing can be written there', async () => {
  // Can be locked, and not written to.
  const lock = await takeLock(dir);
  await expect(takeLock(dir)).rejects.toMatchObject({ code: 'agent_already_running' });
  await lock.release();
  await (await takeLock(dir)).release();
});
