import { Code, ConnectError } from '@connectrpc/connect';
import { describe, expect, it } from 'vitest';
import { createEventQueue } from './event-queue.ts';

const item = (name: string) => ({ name });

describe('an event queue', () => {
  it('gives items in order, then waits for the next one', async () => {
    const queue = createEventQueue({ maxItems: 9 });
    queue.push(item('a'));
    const second = queue.next(10_000).then(() => queue.next(10_000));
    queue.push(item('b'));
    expect(await second).toEqual({ kind: 'item', item: item('b') });
  });

  it('tells of silence, and goes on', async () => {
    const queue = createEventQueue({ maxItems: 9 });
    expect(await queue.next(5)).toEqual({ kind: 'idle' });
    queue.push(item('a'));
    expect(await queue.next(5)).toEqual({ kind: 'item', item: item('a') });
  });

  it('wakes whoever waits when it is closed', async () => {
    const queue = createEventQueue({ maxItems: 9 });
    const waiting = queue.next(10_000);
    queue.close();
    expect(await waiting).toEqual({ kind: 'closed' });
    expect(queue.push(item('a'))).toBe(false);
  });

  it('tells the loss, again and again, once more waits than it holds', async () => {
    const queue = createEventQueue({ maxItems: 2 });
    expect([queue.push(item('a')), queue.push(item('b')), queue.push(item('c'))]).toEqual([
      true,
      true,
      false,
    ]);
    for (let i = 0; i < 2; i++) {
      expect(() => queue.drain()).toThrow(expect.objectContaining({ code: Code.ResourceExhausted }));
      await expect(queue.next(5)).rejects.toThrow('some were lost');
    }
  });

  it('keeps the first failure', () => {
    const queue = createEventQueue({ maxItems: 2 });
    queue.fail(new ConnectError('first', Code.Internal));
    queue.fail(new ConnectError('second', Code.Internal));
    expect(() => queue.drain()).toThrow('first');
  });

  it('drains all that waits', () => {
    const queue = createEventQueue({ maxItems: 9 });
    queue.push(item('a'));
    queue.push(item('b'));
    expect(queue.drain()).toEqual([item('a'), item('b')]);
    expect(queue.drain()).toEqual([]);
  });
});
