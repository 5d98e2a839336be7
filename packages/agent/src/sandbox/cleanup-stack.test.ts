import { expect, it } from 'vitest';
import { createCleanupStack } from './cleanup-stack.ts';

it('releases the last first, each once, whatever fails in between', async () => {
  const order: string[] = [];
  const stack = createCleanupStack(1000);
  let broken = true;
  stack.register('a', async () => void order.push('a'), { onlyAfterTheRest: true });
  stack.register('b', async () => void order.push('b'));
  stack.register('c', async () => {
    order.push('c');
    if (broken) throw new Error('no');
  });
  stack.register('d', async () => void order.push('d'));
  const [first, second] = await Promise.all([stack.release(), stack.release()]);
  expect(first).toBe(second);
  expect(first.map(({ step }) => step)).toEqual(['c']);
  expect(order).toEqual(['d', 'c', 'b']);
  broken = false;
  expect(await stack.release()).toEqual([]);
  expect(order).toEqual(['d', 'c', 'b', 'c', 'a']);
  expect(await stack.release()).toEqual([]);
  expect(order).toHaveLength(5);
});

it('does not wait for ever, nor take anything on once it has begun', async () => {
  const stack = createCleanupStack(10);
  let reached = false;
  stack.register('first', async () => {
    reached = true;
  });
  stack.register('stuck', () => new Promise(() => {}));
  const failures = await stack.release();
  expect(failures).toMatchObject([{ step: 'stuck', error: { code: 'deadline_exceeded' } }]);
  expect(reached).toBe(true);
  expect(() => stack.register('late', async () => {})).toThrow('came too late');
});
