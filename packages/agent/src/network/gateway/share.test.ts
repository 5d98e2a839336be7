import { describe, expect, it } from 'vitest';
import { createShares, type Share } from './share.ts';

/** Time that passes as it is worked or waited for, and sandboxes that want all of it, each as soon as it may. */
function world(greedy: number) {
  let now = 1000;
  const newShare = createShares(() => now);
  const shares = Array.from({ length: greedy }, () => newShare());
  const took = new Map<Share, number>(shares.map((share) => [share, 0]));
  const work = (share: Share, ms: number): void => {
    share.run(() => {
      now += ms;
    });
    took.set(share, (took.get(share) ?? 0) + ms);
  };
  return {
    shares,
    newShare,
    work,
    run: (untilMs: number): void => {
      const end = now + untilMs;
      while (now < end) {
        const free = shares.filter((share) => share.waitMs() === 0);
        for (const share of free) work(share, 2);
        if (free.length === 0) now += 1;
      }
    },
    partsOf: (ms: number): number[] => shares.map((share) => (took.get(share) ?? 0) / ms),
  };
}

describe('shares of the time', () => {
  it.each([1, 2, 5, 20])('are equal where %i want all that there is, and leave some for others', (greedy) => {
    const { run, partsOf } = world(greedy);
    run(20_000);
    for (const part of partsOf(20_000)) {
      expect(part).toBeGreaterThan((0.7 * 0.8) / greedy);
      expect(part).toBeLessThan((1.4 * 0.8) / greedy);
    }
    expect(partsOf(20_000).reduce((sum, part) => sum + part)).toBeLessThan(0.95);
  });

  it('are equal whatever one does at once', () => {
    const { run, work, shares, newShare, partsOf } = world(2);
    const large = newShare();
    for (let round = 0; round < 100; round += 1) {
      if (large.waitMs() === 0) work(large, 60);
      run(50);
    }
    expect(shares.length).toBe(2);
    for (const part of partsOf(100 * 50)) expect(part).toBeGreaterThan(0.2);
  });

  it('make nobody wait who takes little', () => {
    const { run, newShare, work } = world(3);
    const modest = newShare();
    for (let round = 0; round < 100; round += 1) {
      run(94);
      expect(modest.waitMs()).toBe(0);
      work(modest, 5);
    }
  });

  it('count no time twice, and time that was worked for nothing as well', () => {
    const { newShare, work } = world(0);
    const share = newShare();
    share.run(() => share.run(() => work(share, 65)));
    expect(share.waitMs()).toBe(0);
    expect(() =>
      share.run(() => {
        work(share, 20);
        throw new Error('on purpose');
      }),
    ).toThrow('on purpose');
    expect(share.waitMs()).toBe(15);
  });

  it('are taken in turn, one thing at a time, between whatever else there is to do', async () => {
    const newShare = createShares();
    const [many, few] = [newShare(), newShare()];
    const done: string[] = [];
    for (let n = 0; n < 5; n += 1) many.inTurn(() => done.push(`many ${n}`));
    await new Promise((resolve) => {
      few.inTurn(() => {
        done.push('few');
        resolve(undefined);
      });
    });
    expect(done).toEqual(['many 0', 'few']);
    await new Promise((resolve) => many.inTurn(() => resolve(undefined)));
    expect(done).toEqual(['many 0', 'few', 'many 1', 'many 2', 'many 3', 'many 4']);
  });
});
