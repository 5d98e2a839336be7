import { beforeEach, describe, expect, it, vi } from 'vitest';
import { type Activity, createActivity } from './activity.ts';

describe('the activity of a machine', () => {
  let activity: Activity;
  beforeEach(() => {
    vi.useFakeTimers({ now: 1_000 });
    activity = createActivity();
    return () => vi.useRealTimers();
  });

  it('has what began and what ended, with its time', () => {
    activity.processStarted(7, ['/bin/bash', '-l', '-c', 'false']);
    vi.setSystemTime(2_000);
    activity.processEnded(7, 'exit status 1');
    expect(activity.entries()).toEqual([
      {
        atMs: 1_000,
        message: 'process 7 started: /bin/bash -l -c false',
        fields: { event: 'process_start', pid: '7' },
      },
      { atMs: 2_000, message: 'process 7 ended: exit status 1', fields: { event: 'process_end', pid: '7' } },
    ]);
    activity.clear();
    expect(activity.entries()).toEqual([]);
  });

  it('is bounded, in number and in length', () => {
    for (let pid = 0; pid < 10_000; pid++) activity.processStarted(pid, ['x'.repeat(1_000), 'y']);
    const kept = activity.entries();
    expect(kept.length).toBe(1_000);
    expect(kept.at(-1)?.fields.pid).toBe('9999');
    expect(Math.max(...kept.map(({ message }) => message.length))).toBeLessThan(250);
  });
});
