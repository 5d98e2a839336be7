import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { expect, it } from 'vitest';
import type { ExitStatus } from '../wrapped-process.ts';
import { toldOfDeath } from './last-words.ts';

const BROKEN = new WrennError('vmm_api_error', 'The connection broke.', { cause: new Error('EPIPE') });
const KILLED: ExitStatus = { code: 137, signal: null };
const WORDS = ['no', 'luck'];

/** A Firecracker that ends so much later than what `work` fails with, and whose log is read so much later than that. */
function start(failure: unknown, exitMs: number, logMs = 0) {
  const exited = sleep(exitMs, KILLED);
  const words: string[] = [];
  const ended = sleep(exitMs + logMs).then(() => void words.push(...WORDS));
  const log = { tail: () => words, ended };
  return toldOfDeath(exited, log, new AbortController().signal, () => Promise.reject(failure));
}

it('is the reason of a connection that broke', async () => {
  await expect(start(BROKEN, 50, 50)).rejects.toMatchObject({
    code: 'vmm_died',
    message: 'Firecracker was killed by SIGKILL. Its last words: no | luck',
    cause: BROKEN,
  });
});

it('is that also where this process stood still for longer than it waits', async () => {
  const told = start(BROKEN, 1_100, 600);
  setTimeout(() => standStill(2_000), 5);
  await expect(told).rejects.toMatchObject({
    code: 'vmm_died',
    message: expect.stringContaining('Its last words: no | luck'),
  });
});

it('is the reason of nothing that was refused', async () => {
  const refusal = new WrennError('vmm_api_error', 'Firecracker refused it.');
  await expect(start(refusal, 200)).rejects.toBe(refusal);
});

function standStill(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
