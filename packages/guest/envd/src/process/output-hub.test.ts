import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createOutputHub, type Subscription } from './output-hub.ts';

const LONG_MS = 60_000;

async function isPending(promise: Promise<unknown>): Promise<boolean> {
  const pending = Symbol('pending');
  const tick = new Promise((resolve) => setTimeout(resolve, 5, pending));
  return (await Promise.race([promise, tick])) === pending;
}

async function takeAll(subscription: Subscription<number>): Promise<number[]> {
  const taken: number[] = [];
  for (;;) {
    const next = await subscription.next(LONG_MS);
    if (next.kind !== 'item') return taken;
    taken.push(next.item);
  }
}

describe('output hub', () => {
  it('drops what nobody follows', async () => {
    const hub = createOutputHub<number>();
    await hub.publish(1);
    const follower = hub.subscribe();
    await hub.publish(2);
    expect(await follower.next(LONG_MS)).toEqual({ kind: 'item', item: 2 });
  });

  it('holds the publisher until the slowest follower has room, or has left', async () => {
    const hub = createOutputHub<number>();
    const fast = hub.subscribe();
    const slow = hub.subscribe();
    await hub.publish(1);
    const held = hub.publish(2);
    await fast.next(LONG_MS);
    await fast.next(LONG_MS);
    expect(await isPending(held)).toBe(true);
    await slow.next(LONG_MS);
    await held;
    const again = hub.publish(3);
    expect(await isPending(again)).toBe(true);
    slow.close();
    await again;
    expect(await slow.next(LONG_MS)).toEqual({ kind: 'closed' });
  });

  it('says when nothing comes, when it is over, and when it was left', async () => {
    const hub = createOutputHub<number>();
    const follower = hub.subscribe();
    expect(await follower.next(1)).toEqual({ kind: 'idle' });
    const other = hub.subscribe();
    const waiting = other.next(LONG_MS);
    other.close();
    expect(await waiting).toEqual({ kind: 'closed' });
    await hub.publish(7);
    hub.end();
    expect(await follower.next(LONG_MS)).toEqual({ kind: 'item', item: 7 });
    expect(await follower.next(LONG_MS)).toEqual({ kind: 'ended' });
    expect(await hub.subscribe().next(LONG_MS)).toEqual({ kind: 'ended' });
  });

  it('brings every follower everything, in order', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer(), { maxLength: 50 }),
        fc.integer({ min: 1, max: 5 }),
        async (items, n) => {
          const hub = createOutputHub<number>();
          const followers = Array.from({ length: n }, () => takeAll(hub.subscribe()));
          for (const item of items) await hub.publish(item);
          hub.end();
          expect(await Promise.all(followers)).toEqual(followers.map(() => items));
        },
      ),
      { numRuns: 30 },
    );
  });
});
