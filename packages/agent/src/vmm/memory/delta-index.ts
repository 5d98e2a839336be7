/**
 * How a delta is laid out: the pages that differ and are not zero, one after the other; then the index, which says of
 * each run where it belongs and whether it is zero (then it has no pages); then a trailer of 32 bytes. All numbers are
 * little-endian.
 */
import { WrennError } from '@wrenn/protocol';
import { PAGE_BYTES, type Run } from './process.ts';

export interface DeltaRun extends Run {
  readonly isZero: boolean;
}

export const TRAILER_BYTES = 32;
const MAGIC = Buffer.from('wrnDelta');
const VERSION = 1;
const ENTRY_BYTES = 8;
const ZERO = 0x8000_0000;
const COUNT_MAX = ZERO - 1;
const FIRST_RUNS = 1024;

export interface IndexBuilder {
  /** In order. */
  add(page: number, isZero: boolean): void;
  /** Index and trailer. */
  encode(memoryBytes: number): Buffer;
}

/** As it is written: a guest that changes every other page has as many runs as half of its pages, and objects are large. */
export function createIndex(): IndexBuilder {
  let bytes = Buffer.alloc(FIRST_RUNS * ENTRY_BYTES);
  let used = 0;
  let last = { first: 0, count: 0, isZero: false };
  const put = (): void => {
    if (last.count === 0) return;
    if (used === bytes.length) bytes = Buffer.concat([bytes], 2 * bytes.length);
    bytes.writeUInt32LE(last.first, used);
    bytes.writeUInt32LE((last.isZero ? ZERO : 0) + last.count, used + 4);
    used += ENTRY_BYTES;
  };
  return {
    add: (page, isZero) => {
      const follows = last.isZero === isZero && last.first + last.count === page;
      if (follows && last.count > 0 && last.count < COUNT_MAX) {
        last.count++;
        return;
      }
      put();
      last = { first: page, count: 1, isZero };
    },
    encode: (memoryBytes) => {
      put();
      last.count = 0;
      return Buffer.concat([bytes.subarray(0, used), trailerOf(used / ENTRY_BYTES, memoryBytes)]);
    },
  };
}

function trailerOf(runs: number, memoryBytes: number): Buffer {
  const trailer = Buffer.alloc(TRAILER_BYTES);
  MAGIC.copy(trailer);
  trailer.writeUInt32LE(VERSION, 8);
  trailer.writeUInt32LE(PAGE_BYTES, 12);
  trailer.writeBigUInt64LE(BigInt(memoryBytes), 16);
  trailer.writeBigUInt64LE(BigInt(runs), 24);
  return trailer;
}

/** How long the index is that stands before this trailer. Throws `snapshot_corrupt`. */
export function indexBytes(trailer: Buffer, fileBytes: number, memoryBytes: number): number {
  if (trailer.length !== TRAILER_BYTES || !trailer.subarray(0, 8).equals(MAGIC))
    throw corrupt('has no trailer');
  if (trailer.readUInt32LE(8) !== VERSION || trailer.readUInt32LE(12) !== PAGE_BYTES) {
    throw corrupt('is of another kind');
  }
  if (trailer.readBigUInt64LE(16) !== BigInt(memoryBytes)) throw corrupt('is of memory of another size');
  const runs = trailer.readBigUInt64LE(24);
  // A run has a page at least.
  if (runs > BigInt(memoryBytes / PAGE_BYTES) || Number(runs) * ENTRY_BYTES + TRAILER_BYTES > fileBytes) {
    throw corrupt('is cut off');
  }
  return Number(runs) * ENTRY_BYTES;
}

/** In order, apart from one another, inside of the memory, and as many pages as the file has. Throws `snapshot_corrupt`. */
export function parseIndex(index: Buffer, fileBytes: number, memoryBytes: number): Iterable<DeltaRun> {
  let [next, pages] = [0, 0];
  for (const { first, count, isZero } of runsOf(index)) {
    if (count === 0 || first < next || (first + count) * PAGE_BYTES > memoryBytes)
      throw corrupt('has a wrong index');
    next = first + count;
    if (!isZero) pages += count;
  }
  if (pages * PAGE_BYTES + index.length + TRAILER_BYTES !== fileBytes) throw corrupt('has another size');
  return runsOf(index);
}

function* runsOf(index: Buffer): Generator<DeltaRun> {
  for (let at = 0; at < index.length; at += ENTRY_BYTES) {
    const word = index.readUInt32LE(at + 4);
    const isZero = word >= ZERO;
    yield { first: index.readUInt32LE(at), count: isZero ? word - ZERO : word, isZero };
  }
}

function corrupt(what: string): WrennError {
  return new WrennError('snapshot_corrupt', `What a guest's memory differs by ${what}.`);
}
