/**
 * A guest's connection, read in slices: each when the sandbox has time for it (share.ts). Until then what the guest
 * sends waits in the kernel, and pieces that are small become one.
 */
import type net from 'node:net';
import { Duplex } from 'node:stream';
import type { Share } from './share.ts';

/** Of the smallest requests a slice may have hundreds, so it is made to fit the time that it should take. */
const SLICE_MIN_BYTES = 512;
const SLICE_MAX_BYTES = 16 * 1024;
const SLICE_MS = { min: 0.5, max: 2 };
/** Of the sockets: what is not wanted yet waits in the kernel, but for one piece. */
export const HIGH_WATER_MARK_BYTES = 1;

export class GuestStream extends Duplex {
  readonly #socket: net.Socket;
  readonly #share: Share;
  #rest: Buffer | undefined;
  #isWanted = false;
  #isQueued = false;
  #sliceBytes = 2 * SLICE_MIN_BYTES;

  constructor(socket: net.Socket, share: Share) {
    super({ allowHalfOpen: true });
    this.#socket = socket;
    this.#share = share;
    socket.on('readable', () => this.#next());
    socket.once('end', () => this.#endIfRead());
    socket.on('timeout', () => this.emit('timeout'));
    socket.on('error', () => {});
    socket.once('close', () => {
      // What has come to its end both ways may still be read here, and then ends by itself.
      if (!socket.readableEnded || !socket.writableFinished) this.destroy();
    });
  }

  /** As a socket's: the guest learns that it is broken off. */
  resetAndDestroy(): this {
    this.#socket.resetAndDestroy();
    return this.destroy();
  }

  /** As a socket's. */
  setTimeout(timeoutMs: number, callback?: () => void): this {
    this.#socket.setTimeout(timeoutMs);
    if (callback === undefined) return this;
    return timeoutMs === 0 ? this.off('timeout', callback) : this.once('timeout', callback);
  }

  override _read(): void {
    this.#isWanted = true;
    this.#next();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#socket.write(chunk, done);
  }

  override _writev(
    chunks: { chunk: Buffer; encoding: BufferEncoding }[],
    done: (error?: Error | null) => void,
  ): void {
    this._write(Buffer.concat(chunks.map(({ chunk }) => chunk)), 'utf8', done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.end(() => done());
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#rest = undefined;
    this.#socket.destroy();
    done(error);
  }

  #next(): void {
    if (!this.#isWanted || this.#isQueued || this.destroyed) return;
    // To be told of the end it must be read up to there.
    if (this.#rest === undefined && this.#socket.readableLength === 0) return void this.#socket.read(0);
    this.#isQueued = true;
    this.#share.inTurn(() => {
      this.#isQueued = false;
      if (!this.destroyed) this.#read();
    });
  }

  /** What is left of the last piece comes before the end, which the socket tells as soon as it has been taken from it. */
  #endIfRead(): void {
    if (this.#rest === undefined && this.#socket.readableEnded) this.push(null);
  }

  #read(): void {
    const chunk: Buffer | null = this.#rest ?? this.#socket.read();
    if (chunk === null) return;
    const size = this.#sliceBytes;
    this.#rest = chunk.length > size ? chunk.subarray(size) : undefined;
    this.#isWanted = false;
    const at = performance.now();
    this.push(chunk.subarray(0, size));
    this.#endIfRead();
    const tookMs = performance.now() - at;
    if (tookMs > SLICE_MS.max) this.#sliceBytes = Math.max(SLICE_MIN_BYTES, size / 2);
    else if (tookMs < SLICE_MS.min) this.#sliceBytes = Math.min(SLICE_MAX_BYTES, size * 2);
  }
}
