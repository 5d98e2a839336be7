import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createIdleWatch } from './idle.ts';

const IDLE_MS = 60_000;

describe('an agent that was started on demand', () => {
  let [isBusy, lastActiveAtMs, left] = [false, 0, 0];
  beforeEach(() => {
    vi.useFakeTimers();
    [isBusy, lastActiveAtMs, left] = [false, performance.now(), 0];
  });
  afterEach(() => vi.useRealTimers());
  const watch = (idleTimeoutMs: number) =>
    createIdleWatch({
      idleTimeoutMs,
      isBusy: () => isBusy,
      lastActiveAtMs: () => lastActiveAtMs,
      onIdle: () => {
        left += 1;
      },
    });

  it('leaves once, when it has been idle for so long', () => {
    watch(IDLE_MS);
    isBusy = true;
    vi.advanceTimersByTime(3 * IDLE_MS);
    isBusy = false;
    vi.advanceTimersByTime(IDLE_MS / 2);
    lastActiveAtMs = performance.now();
    vi.advanceTimersByTime(IDLE_MS - 6_000);
    expect(left).toBe(0);
    vi.advanceTimersByTime(12_000);
    expect(left).toBe(1);
    vi.advanceTimersByTime(10 * IDLE_MS);
    expect(left).toBe(1);
  });

  it.each([
    ['back', -1],
    ['forward', 1],
  ])('does so at the same time where the clock is set %s', (_, direction) => {
    watch(IDLE_MS);
    vi.setSystemTime(Date.now() + direction * 24 * 3_600_000);
    vi.advanceTimersByTime(IDLE_MS - 6_000);
    expect(left).toBe(0);
    vi.advanceTimersByTime(12_000);
    expect(left).toBe(1);
  });

  it('never leaves where it is not to, or has ended', () => {
    watch(0);
    watch(IDLE_MS).stop();
    vi.advanceTimersByTime(10 * IDLE_MS);
    expect(left).toBe(0);
  });
});
