import { describe, expect, it } from 'vitest';
import { missingProgram } from './command.ts';
import { addTokenBucketFilter, createTc } from './tc.ts';

const FILTER = { bytesPerSecond: 2_000_000, bucketBytes: 200_000, queueBytes: 300_000 };

describe('traffic control', () => {
  it('is told in words that tc knows', () => {
    expect(addTokenBucketFilter('tap0', FILTER).words.join(' ')).toBe(
      'qdisc add dev tap0 root tbf rate 2000000bps burst 200000 limit 300000',
    );
  });

  it('refuses what is no link, rate or size', () => {
    const wrong = expect.objectContaining({ code: 'invalid_argument' });
    expect(() => addTokenBucketFilter('a b', FILTER)).toThrow(wrong);
    for (const value of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => addTokenBucketFilter('tap0', { ...FILTER, bytesPerSecond: value })).toThrow(wrong);
      expect(() => addTokenBucketFilter('tap0', { ...FILTER, bucketBytes: value })).toThrow(wrong);
    }
    expect(() => addTokenBucketFilter('tap0', { ...FILTER, queueBytes: 2 ** 32 })).toThrow(wrong);
  });

  it('runs a batch in the namespace, and nothing for none', async () => {
    const calls: unknown[] = [];
    const tc = createTc(async (program, args, { input }) => {
      calls.push([program, ...args, input]);
      return { stdout: '', stderr: '' };
    });
    await tc.batch([], { netns: 'wr-0' });
    const commands = [addTokenBucketFilter('tap0', FILTER), addTokenBucketFilter('veth0', FILTER)];
    await tc.batch(commands, { netns: 'wr-0' });
    const line = (link: string) =>
      `qdisc add dev ${link} root tbf rate 2000000bps burst 200000 limit 300000\n`;
    expect(calls).toEqual([['tc', '-netns', 'wr-0', '-batch', '-', `${line('tap0')}${line('veth0')}`]]);
  });

  it('says which package brings it', () => {
    expect(missingProgram('tc').hint).toBe('apt-get install iproute2');
  });
});
