import { tmpdir } from 'node:os';
import { Code } from '@connectrpc/connect';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { createWatchers, type WatcherDependencies } from './watchers.ts';

const HOUR_MS = 60 * 60_000;
const options = { path: tmpdir(), recursive: false, includeEntry: false, allowNetworkMounts: false };
const released = vi.fn();
const dependencies: WatcherDependencies = {
  inotify: { add: () => 1, remove: released, settled: async () => {} },
  dirents: { call: () => 0 },
  statfs: () => ({ type: 0, totalBytes: 1, freeBytes: 1, availableBytes: 1 }),
  entries: {
    users: { userName: String, groupName: String },
    xattrs: { list: () => new Uint8Array(), get: () => new Uint8Array(), set: () => {}, remove: () => {} },
  },
};

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  released.mockClear();
});
afterEach(() => void vi.useRealTimers());

it('a watcher that nobody has fetched from for an hour is let go of', async () => {
  const watchers = createWatchers(dependencies);
  const [kept, left] = [await watchers.create(options), await watchers.create(options)];
  vi.advanceTimersByTime(HOUR_MS - 1);
  expect(await watchers.fetch(kept)).toEqual([]);
  expect(released).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(released).toHaveBeenCalledTimes(1);
  await expect(watchers.fetch(left)).rejects.toMatchObject({ code: Code.NotFound });
  vi.advanceTimersByTime(HOUR_MS - 2);
  expect(await watchers.fetch(kept)).toEqual([]);
  watchers.remove(kept);
  expect(released).toHaveBeenCalledTimes(2);
  expect(vi.getTimerCount()).toBe(0);
});
