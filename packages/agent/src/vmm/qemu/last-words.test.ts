import { WrennError } from '@wrenn/protocol';
import { expect, it } from 'vitest';
import type { ExitStatus } from '../wrapped-process.ts';
import { type Deathbed, tellOfDeath } from './last-words.ts';

const LOST = new WrennError('vmm_api_error', 'The connection to QEMU was lost.');
const KILLED: ExitStatus = { code: 137, signal: null };

/** Of a QEMU that has gone without a word, and whose end nobody has told of. */
function deathbed(change: Partial<Deathbed> = {}): Deathbed {
  return {
    log: { tail: async () => ['2026-01-02T03:04:05.678901Z qemu: no luck'] },
    exit: () => undefined,
    isConnected: () => false,
    signal: new AbortController().signal,
    ...change,
  };
}

/** What is told once it has been looked so often; `onLook` hears of each. */
function toldAtLook(last: number, onLook: (look: number) => void = () => {}): Deathbed['exit'] {
  let look = 0;
  return () => {
    look += 1;
    onLook(look);
    return look < last ? undefined : KILLED;
  };
}

it('is the reason of a connection that broke, however long this process stood still', async () => {
  const exit = toldAtLook(4, (look) => {
    if (look === 2) standStill(2_500);
  });
  expect(await tellOfDeath(LOST, deathbed({ exit }))).toMatchObject({
    code: 'vmm_died',
    message: 'QEMU was killed by SIGKILL. Its last words: qemu: no luck',
    cause: LOST,
  });
});

it('is not waited for while QEMU is there, nor for ever, nor by who gives up', async () => {
  const refusal = new WrennError('vmm_api_error', 'QEMU refused cont.');
  let looks = 0;
  const exit = toldAtLook(Number.POSITIVE_INFINITY, (look) => {
    looks = look;
  });
  expect(await tellOfDeath(refusal, deathbed({ exit, isConnected: () => true }))).toBe(refusal);
  expect(looks).toBeLessThan(5);
  expect(await tellOfDeath(LOST, deathbed({ exit }))).toBe(LOST);

  const caller = new AbortController();
  const abandoned = toldAtLook(100, (look) => look === 2 && caller.abort());
  expect(await tellOfDeath(LOST, deathbed({ exit: abandoned, signal: caller.signal }))).toBe(LOST);
});

it('is told with what is known of it, and is the reason of nothing else', async () => {
  const gone = new WrennError('vmm_died', 'QEMU is gone.');
  expect(await tellOfDeath(gone, deathbed({ log: undefined }))).toMatchObject({
    code: 'vmm_died',
    message: 'QEMU is gone. It said nothing.',
  });
  const late = new WrennError('deadline_exceeded', 'QEMU did not answer.');
  for (const failure of [late, new Error('the disk is full')]) {
    expect(await tellOfDeath(failure, deathbed({ exit: () => KILLED }))).toBe(failure);
  }
});

function standStill(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
