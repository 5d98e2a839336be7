import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { newLines } from './console.ts';
import { createDeadline, TIMER_MAX_MS } from './deadline.ts';
import { exitCodeOf } from './exit-code.ts';
import { createOperationQueue } from './operation-queue.ts';
import { createRetained } from './retained.ts';

afterEach(() => {
  vi.useRealTimers();
});

describe('a deadline', () => {
  it('comes at its moment, however far ahead', async () => {
    vi.useFakeTimers();
    const reached = vi.fn();
    const deadline = createDeadline(reached);
    const farMs = 3 * TIMER_MAX_MS + 5;
    deadline.set(Date.now() + farMs);
    await vi.advanceTimersByTimeAsync(farMs - 1);
    expect(reached).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(1);
    expect(reached).toHaveBeenCalledTimes(1);
  });

  it('can be moved, taken back, and in the past', async () => {
    vi.useFakeTimers();
    const reached = vi.fn();
    const deadline = createDeadline(reached);
    deadline.set(Date.now() + 10);
    deadline.set(Date.now() + 100);
    await vi.advanceTimersByTimeAsync(50);
    expect(reached).not.toHaveBeenCalled();
    deadline.set(undefined);
    await vi.advanceTimersByTimeAsync(500);
    expect(reached).not.toHaveBeenCalled();
    deadline.set(Date.now() - 1000);
    await vi.advanceTimersByTimeAsync(0);
    expect(reached).toHaveBeenCalledTimes(1);
  });
});

describe('an operation queue', () => {
  it('never runs two at once, and refuses when it is full', async () => {
    const queue = createOperationQueue(2);
    let running = 0;
    let most = 0;
    const work = async (): Promise<void> => {
      running++;
      most = Math.max(most, running);
      await new Promise((resolve) => setTimeout(resolve, 1));
      running--;
    };
    const outcomes = await Promise.allSettled([1, 2, 3, 4, 5].map(() => queue.run(work)));
    expect(most).toBe(1);
    expect(outcomes.map(({ status }) => status)).toContain('rejected');
    await queue.run(work);
  });

  it('goes on after a failure', async () => {
    const queue = createOperationQueue(2);
    await expect(queue.run(() => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(await queue.run(async () => 7)).toBe(7);
  });
});

describe('the new lines of a console', () => {
  it('are those that were not seen', () => {
    expect(newLines([], ['a', 'b'])).toEqual(['a', 'b']);
    expect(newLines(['a', 'b'], ['a', 'b', 'c'])).toEqual(['c']);
    expect(newLines(['a', 'b'], ['b', 'c'])).toEqual(['c']);
    expect(newLines(['a', 'b'], ['x', 'y'])).toEqual(['x', 'y']);
    expect(newLines(['a', 'a'], ['a', 'a'])).toEqual([]);
    expect(newLines(['a', 'b'], [])).toEqual([]);
  });

  it('put together give the text, as long as no look comes too late', () => {
    const lines = fc.array(fc.constantFrom('a', 'b', 'c'), { maxLength: 60 });
    fc.assert(
      fc.property(fc.array(lines, { maxLength: 8 }), fc.nat(5), (parts, extra) => {
        // Every line is different, as far as it can be told: with repeats an overlap may be ambiguous.
        let n = 0;
        const tail = Math.max(1, ...parts.map((part) => part.length)) + extra;
        const text: string[] = [];
        const followed: string[] = [];
        let seen: string[] = [];
        for (const part of parts) {
          for (const line of part) text.push(`${line}${n++}`);
          const now = text.slice(-tail);
          followed.push(...newLines(seen, now));
          seen = now;
        }
        expect(followed).toEqual(text);
      }),
    );
  });
});

it('an exit code is never a success by mistake', () => {
  const end = (exitCode: number, exited: boolean, status: string) => exitCodeOf({ exitCode, exited, status });
  expect(end(0, true, 'exit status 0')).toBe(0);
  expect(end(7, true, 'exit status 7')).toBe(7);
  expect(end(-1, false, 'signal: killed')).toBe(137);
  expect(end(-1, false, 'signal: segmentation fault (core dumped)')).toBe(139);
  expect(end(-1, false, 'signal: signal 34')).toBe(162);
  expect(end(-1, false, 'signal: signal 99')).toBe(255);
  expect(end(0, false, 'nonsense')).toBe(255);
  expect(end(-1, true, '')).toBe(255);
});

it('what is retained is bounded in number and time', async () => {
  vi.useFakeTimers();
  const dropped: string[] = [];
  const retained = createRetained(2, 1000, (id) => dropped.push(id));
  for (const id of ['a', 'b', 'c']) retained.add(id);
  expect(dropped).toEqual(['a']);
  retained.forget('b');
  await vi.advanceTimersByTimeAsync(1000);
  expect(dropped).toEqual(['a', 'c']);
});
