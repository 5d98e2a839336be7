/** Holds what a guest sends to its rate, as that does not pass the filter on the slot's link, and what it gets to its share. */
import { Transform, type TransformCallback } from 'node:stream';
import type { Share } from './share.ts';

/** Says how long so many bytes have to wait. */
export type Pacer = (bytes: number) => number;

/** What may pass at once, as a part of a second's worth; as for the slot's links. */
const SHARE_OF_SECOND = 1 / 10;

export function createPacer(bytesPerSecond: number, now = () => performance.now()): Pacer {
  const burstMs = 1000 * SHARE_OF_SECOND;
  /** When all that was let pass would have gone out, byte for byte. */
  let paidUntil = 0;
  return (bytes) => {
    const at = now();
    paidUntil = Math.max(paidUntil, at - burstMs) + (bytes / bytesPerSecond) * 1000;
    return Math.max(0, paidUntil - at);
  };
}

export class Paced extends Transform {
  readonly #pacer: Pacer;
  #waiting: NodeJS.Timeout | undefined;

  constructor(pacer: Pacer) {
    super();
    this.#pacer = pacer;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const waitMs = this.#pacer(chunk.length);
    if (waitMs < 1) done(null, chunk);
    else this.#waiting = setTimeout(() => done(null, chunk), waitMs);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearTimeout(this.#waiting);
    done(error);
  }
}

/** What comes for a guest, moved in its sandbox's turn. */
export class Shared extends Transform {
  readonly #share: Share;

  constructor(share: Share) {
    super();
    this.#share = share;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    this.#share.inTurn(() => {
      if (!this.destroyed) done(null, chunk);
    });
  }
}
