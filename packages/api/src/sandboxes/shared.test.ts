import { describe, expect, it } from 'vitest';
import { shared } from './shared.ts';

describe('a shared question', () => {
  it('is asked once for all that wait for the next answer, and never answered from before it', async () => {
    const begun: string[] = [];
    const ends: (() => void)[] = [];
    const ask = shared(async (key: string) => {
      const mine = begun.push(key);
      await new Promise<void>((resolve) => ends.push(resolve));
      if (key === 'bad') throw new Error('no');
      return mine;
    });
    const first = ask('a');
    const others = [ask('a'), ask('a'), ask('a')];
    const elsewhere = ask('b');
    expect(begun).toEqual(['a', 'b']);
    ends[0]?.();
    expect(await first).toBe(1);
    await expect.poll(() => begun).toEqual(['a', 'b', 'a']);
    const late = ask('a');
    ends[2]?.();
    expect(await Promise.all(others)).toEqual([3, 3, 3]);
    await expect.poll(() => begun.length).toBe(4);
    ends[3]?.();
    ends[1]?.();
    expect([await late, await elsewhere]).toEqual([4, 2]);
    const bad = [ask('bad'), ask('bad')].map((one) => one.catch(() => 'failed'));
    ends[4]?.();
    await expect.poll(() => begun.length).toBe(6);
    ends[5]?.();
    expect(await Promise.all(bad)).toEqual(['failed', 'failed']);
    // Nothing is left: the next one is asked at once.
    void ask('a');
    expect(begun.length).toBe(7);
    ends[6]?.();
  });
});
