import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { soon } from './soon.ts';

const never = new Promise<string>(() => {});

describe('what is bound to follow', () => {
  it('is told as soon as it is there, however it ends', async () => {
    const startedAt = performance.now();
    expect(await soon(sleep(30, 'there'), 60_000)).toBe('there');
    await expect(soon(Promise.reject(new Error('no')), 60_000)).rejects.toThrow('no');
    expect(performance.now() - startedAt).toBeLessThan(30_000);
  });

  it('is waited for so long, and not by who gives up', async () => {
    const startedAt = performance.now();
    expect(await soon(never, 100)).toBeUndefined();
    expect(performance.now() - startedAt).toBeGreaterThan(80);
    expect(await soon(never, 0)).toBeUndefined();
    const caller = new AbortController();
    setTimeout(() => caller.abort(), 10);
    expect(await soon(never, 60_000, caller.signal)).toBeUndefined();
    expect(await soon(never, 60_000, AbortSignal.abort())).toBeUndefined();
    expect(await soon(Promise.resolve('there'), 0, AbortSignal.abort())).toBe('there');
  });

  it('is still told where this process stood still for longer', async () => {
    const waiting = soon(sleep(150, 'there'), 100);
    setTimeout(() => standStill(500), 5);
    expect(await waiting).toBe('there');
  });
});

function standStill(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
