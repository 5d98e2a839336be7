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

export interface IndexBuilder {
  /** In order. */
  add(page: number, isZero: boolean): void;
  /** Index and trailer. */
  encode(memoryBytes: number): Buffer;
}

export function createIndex(): IndexBuilder {
  const runs: { first: number; count: number; isZero: boolean }[] = [];
  return {
    add: (page, isZero) => {
      const last = runs.at(-1);
      const follows = last !== undefined && last.isZero === isZero && last.first + last.count === page;
      if (follows && last.count < COUNT_MAX) last.count++;
      else runs.push({ first: page, count: 1, isZero });
    },
    encode: (memoryBytes) => encodeIndex(runs, memoryBytes),
  };
}

function encodeIndex(runs: readonly DeltaRun[], memoryBytes: number): Buffer {
  const bytes = Buffer.alloc(runs.length * ENTRY_BYTES + TRAILER_BYTES);
  runs.forEach(({ first, count, isZero }, i) => {
    bytes.writeUInt32LE(first, i * ENTRY_BYTES);
    bytes.writeUInt32LE((isZero ? ZERO : 0) + count, i * ENTRY_BYTES + 4);
  });
  const trailer = bytes.subarray(runs.length * ENTRY_BYTES);
  MAGIC.copy(trailer);
  trailer.writeUInt32LE(VERSION, 8);
  trailer.writeUInt32LE(PAGE_BYTES, 12);
  trailer.writeBigUInt64LE(BigInt(memoryBytes), 16);
  trailer.writeBigUInt64LE(BigInt(runs.length), 24);
  return bytes;
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
export function parseIndex(index: Buffer, fileBytes: number, memoryBytes: number): DeltaRun[] {
  const runs: DeltaRun[] = [];
  let [next, pages] = [0, 0];
  for (let at = 0; at < index.length; at += ENTRY_BYTES) {
    const first = index.readUInt32LE(at);
    const word = index.readUInt32LE(at + 4);
    const isZero = word >= ZERO;
    const count = isZero ? word - ZERO : word;
    if (count === 0 || first < next || (first + count) * PAGE_BYTES > memoryBytes)
      throw corrupt('has a wrong index');
    next = first + count;
    if (!isZero) pages += count;
    runs.push({ first, count, isZero });
  }
  if (pages * PAGE_BYTES + index.length + TRAILER_BYTES !== fileBytes) throw corrupt('has another size');
  return runs;
}

function corrupt(what: string): WrennError {
  return new WrennError('snapshot_corrupt', `What a guest's memory differs by ${what}.`);
}
