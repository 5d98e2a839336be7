import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { identify, killProcess } from '@wrenn/host';
import { newSandboxId } from '@wrenn/protocol';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { Suspect } from './deps.ts';
import { killStrays } from './strays.ts';

vi.mock('@wrenn/host', { spy: true });

const uid = process.getuid?.() ?? 0;
const children: ChildProcess[] = [];

beforeEach(() => void vi.mocked(killProcess).mockReset());
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

/** Nobody has written it down; its command line names the sandbox. */
async function startStray(id: string): Promise<ChildProcess> {
  const child = spawn('sleep', ['60'], { argv0: `sleep-${id}`, stdio: 'ignore' });
  children.push(child);
  await once(child, 'spawn');
  return child;
}

const suspect = (id: string, of: number | undefined = uid): Suspect => ({ id, uid: of, known: [] });
const soon = (ms: number): AbortSignal => AbortSignal.timeout(ms);

it('ends what is left of many in a few looks, with few descriptors', async () => {
  const [mine, others] = [newSandboxId(), newSandboxId()];
  const stray = await startStray(mine);
  const ofAnotherUser = await startStray(others);
  const known = await startStray('nobody');
  const identity = await identify(known.pid ?? 0);
  const suspects = [
    ...Array.from({ length: 250 }, () => suspect(newSandboxId())),
    suspect(mine),
    suspect(others, uid + 1),
    { ...suspect(newSandboxId(), undefined), known: identity === undefined ? [] : [identity] },
  ];
  const descriptors = (): number => readdirSync('/proc/self/fd').length;
  const before = descriptors();
  let most = 0;
  const timer = setInterval(() => {
    most = Math.max(most, descriptors() - before);
  }, 1);
  const ended = Promise.all([once(stray, 'exit'), once(known, 'exit')]);
  try {
    expect([...(await killStrays(suspects, soon(10_000)))]).toEqual([]);
  } finally {
    clearInterval(timer);
  }
  expect(most).toBeLessThan(64);
  await ended;
  expect(ofAnotherUser.exitCode ?? ofAnotherUser.signalCode).toBe(null);
});

it('tells of what does not end, and ends the others', async () => {
  const [stuck, other] = [newSandboxId(), newSandboxId()];
  const child = await startStray(stuck);
  const ended = once(await startStray(other), 'exit');
  const { killProcess: kill } = await vi.importActual<typeof import('@wrenn/host')>('@wrenn/host');
  vi.mocked(killProcess).mockImplementation(async (identity, signal) =>
    identity.pid === child.pid ? true : kill(identity, signal),
  );
  const left = await killStrays([suspect(stuck), suspect(other)], soon(300));
  expect([...left]).toEqual([[stuck, `its process ${child.pid} does not end`]]);
  await ended;
});

it('looks again where it could not look for want of descriptors', async () => {
  const id = newSandboxId();
  const ended = once(await startStray(id), 'exit');
  const none = Object.assign(new Error('EMFILE: too many open files'), { code: 'EMFILE' });
  vi.mocked(identify).mockRejectedValueOnce(none);
  expect([...(await killStrays([suspect(id)], soon(10_000)))]).toEqual([]);
  await ended;
  vi.mocked(identify).mockRejectedValue(none);
  const left = await killStrays([suspect(id)], soon(50));
  vi.mocked(identify).mockReset();
  expect(left.get(id)).toContain('EMFILE');
});
