import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { mapAtOnce } from './at-once.ts';

it('does so many at once, and keeps the order', async () => {
  let [running, most] = [0, 0];
  const doubled = await mapAtOnce(3, [9, 1, 5, 2, 0, 7, 3], async (ms) => {
    most = Math.max(most, ++running);
    await sleep(ms);
    running--;
    return ms * 2;
  });
  expect(doubled).toEqual([18, 2, 10, 4, 0, 14, 6]);
  expect(most).toBe(3);
  expect(await mapAtOnce(3, [], async () => 1)).toEqual([]);
});

it('begins nothing more when one has failed, and waits for what runs', async () => {
  const ended: number[] = [];
  const failure = new Error('on purpose');
  const work = mapAtOnce(2, [20, 1, 1, 1], async (ms) => {
    await sleep(ms);
    if (ms === 1) throw failure;
    ended.push(ms);
  });
  await expect(work).rejects.toBe(failure);
  expect(ended).toEqual([20]);
});
