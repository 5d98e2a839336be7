import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { expect, it } from 'vitest';
import { createOperationQueue } from './operation-queue.ts';

const REASON = new WrennError('sandbox_not_found', 'It was destroyed meanwhile.');

it('runs one after the other, and refuses too many', async () => {
  const queue = createOperationQueue(1);
  const order: string[] = [];
  const work = (name: string) => async () => {
    order.push(`${name} begins`);
    await sleep(2);
    order.push(`${name} ends`);
  };
  const first = queue.run(work('a'));
  const second = queue.run(work('b'));
  await expect(queue.run(work('c'))).rejects.toMatchObject({ code: 'sandbox_wrong_state' });
  await Promise.all([first, second]);
  expect(order).toEqual(['a begins', 'a ends', 'b begins', 'b ends']);
});

it('tells whoever it ends why, whatever the work has made of the abort', async () => {
  const queue = createOperationQueue(2);
  const running = queue.run((signal) => sleep(60_000, undefined, { signal }));
  const waiting = queue.run(async () => {});
  const outcomes = Promise.allSettled([running, waiting]);
  await sleep(1);
  await queue.close(REASON);
  expect(await outcomes).toEqual([
    { status: 'rejected', reason: REASON },
    { status: 'rejected', reason: REASON },
  ]);
  await expect(queue.run(async () => {})).rejects.toBe(REASON);
});

it('keeps what went wrong by itself', async () => {
  const queue = createOperationQueue(2);
  const failure = new WrennError('vmm_died', 'It is gone.');
  const failing = queue.run(async (signal) => {
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
    throw failure;
  });
  const outcome = expect(failing).rejects.toBe(failure);
  await sleep(1);
  await queue.close(REASON);
  await outcome;
});
