/** What sends for as long as it is let, so that it can be seen to be held back. */
import type { Writable } from 'node:stream';
import { expect } from 'vitest';

const PIECE = Buffer.alloc(64 * 1024);
/** Far more than all buffers on the way take together. */
const MOST_BYTES = 256 * 1024 * 1024;

/** Tells how much was sent so far. */
export type Sent = () => number;

export function flood(into: Writable): Sent {
  let sentBytes = 0;
  const more = (): void => {
    while (sentBytes < MOST_BYTES) {
      sentBytes += PIECE.length;
      if (!into.write(PIECE)) return void into.once('drain', more);
    }
  };
  more();
  return () => sentBytes;
}

/** Each has sent something, and none of them sends any more: their readers hold them back. */
export async function untilHeldBack(floods: readonly Sent[], mostBytes: number): Promise<void> {
  let before: readonly number[] = [];
  const isStill = (): boolean => {
    const now = floods.map((sent) => sent());
    const same = now.every((bytes, n) => bytes > 0 && bytes === before[n]);
    before = now;
    return same;
  };
  await expect.poll(isStill, { interval: 300, timeout: 10_000 }).toBe(true);
  for (const bytes of before) expect(bytes).toBeLessThan(mostBytes);
}
