import { expect, it } from 'vitest';
import { cpuPercent, parseCpuTimes, parseMemory } from './metrics.ts';

it('reads /proc/stat', () => {
  const text = 'cpu  100 10 50 800 20 5 5 10 7 0\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 1\n';
  expect(parseCpuTimes(text)).toEqual({ count: 2, busy: 180, total: 1000 });
});

it('gives the share of busy time between two readings', () => {
  const at = (busy: number, total: number) => ({ count: 1, busy, total });
  expect(cpuPercent(at(0, 0), at(1, 3))).toBe(33.33);
  expect(cpuPercent(at(5, 10), at(5, 10))).toBe(0);
  expect(cpuPercent(at(5, 10), at(0, 20))).toBe(0);
});

it('reads /proc/meminfo', () => {
  const text =
    'MemTotal:        1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\nCached:           50 kB\nSwapCached: 9 kB\n';
  expect(parseMemory(text)).toEqual({ totalBytes: 1_024_000, usedBytes: 614_400, cacheBytes: 51_200 });
});
