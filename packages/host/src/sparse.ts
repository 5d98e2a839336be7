/** What a sparse file holds, told, hashed and kept without reading its holes. */
import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { runCommand } from './command.ts';

export interface Extent {
  readonly start: number;
  readonly end: number;
}

const PAGE_BYTES = 4096;
const CHUNK_BYTES = 256 * PAGE_BYTES;
const BLOCK_BYTES = 512;
const NO_PAGE = Buffer.alloc(PAGE_BYTES);
const LIST_TIMEOUT_MS = 60_000;
/** Of a file of 64 GiB that is as scattered as it can be, given that small holes are not told. */
const LIST_MAX_BYTES = 16 * 1024 * 1024;

/**
 * Node cannot lseek(2); perl-base can, and is on every Debian and Ubuntu. 3 is SEEK_DATA, 4 SEEK_HOLE, and 6
 * ENXIO: there is no data any more. Whatever else goes wrong, as with a file system that cannot tell, there may be.
 */
const LIST = `
use strict;
open(my $in, "<:raw", $ARGV[0]) or die "$ARGV[0]: $!\\n";
my ($size, $at, $from, $to) = (-s $in, 0, -1, -1);
while ($at < $size) {
  my $data = sysseek($in, $at, 3);
  last if !defined $data && $! == 6;
  my $hole = defined $data ? sysseek($in, $data, 4) : $size;
  $data = $at unless defined $data;
  $hole = $size unless defined $hole;
  if ($to >= 0 && $data - $to < 262144) {
    $to = $hole;
  } else {
    print $from + 0, " ", $to + 0, "\\n" if $to >= 0;
    ($from, $to) = ($data, $hole);
  }
  $at = $hole;
}
print $from + 0, " ", $to + 0, "\\n" if $to >= 0;
`;

/** Where there may be anything but zeroes, in order; holes of less than 256 KiB count as something. */
export async function dataExtents(
  path: string,
  options: { readonly signal?: AbortSignal } = {},
): Promise<Extent[]> {
  const { stdout } = await runCommand('/usr/bin/perl', ['-e', LIST, path], {
    timeoutMs: LIST_TIMEOUT_MS,
    signal: options.signal,
    maxOutputBytes: LIST_MAX_BYTES,
  });
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [start = Number.NaN, end = Number.NaN] = line.split(' ').map(Number);
      return { start, end };
    });
}

/**
 * SHA-256 of a file's size and of its pages that are not zero, each run of them behind its number: so it does not matter
 * which zeroes are holes, and holes cost nothing.
 */
export async function hashSparse(
  path: string,
  options: { readonly signal?: AbortSignal } = {},
): Promise<string> {
  const file = await open(path, 'r');
  try {
    const { size, blocks } = await file.stat();
    const extents =
      blocks * BLOCK_BYTES >= size ? [{ start: 0, end: size }] : await dataExtents(path, options);
    const hash = createHash('sha256').update(number(size));
    let expected = -1;
    for await (const { page, bytes } of runs(file, extents)) {
      options.signal?.throwIfAborted();
      if (page !== expected) hash.update(number(page));
      hash.update(bytes);
      expected = page + Math.ceil(bytes.length / PAGE_BYTES);
    }
    return hash.digest('hex');
  } finally {
    await file.close();
  }
}

/** A sparse file in memory. */
export interface SparseContent {
  readonly sizeBytes: number;
  /** All that is not zero, in order. */
  readonly runs: readonly { readonly start: number; readonly bytes: Buffer }[];
}

/** Undefined where the file has more than `maxBytes` besides its holes. */
export async function readSparse(
  path: string,
  maxBytes: number,
  options: { readonly signal?: AbortSignal } = {},
): Promise<SparseContent | undefined> {
  const file = await open(path, 'r');
  try {
    const { size, blocks } = await file.stat();
    if (blocks * BLOCK_BYTES > maxBytes) return undefined;
    const extents = await dataExtents(path, options);
    if (extents.reduce((sum, { start, end }) => sum + end - start, 0) > maxBytes) return undefined;
    const kept: { start: number; bytes: Buffer }[] = [];
    for await (const { page, bytes } of runs(file, extents)) {
      kept.push({ start: page * PAGE_BYTES, bytes: Buffer.from(bytes) });
    }
    return { sizeBytes: size, runs: kept };
  } finally {
    await file.close();
  }
}

/** Makes a file of it, which nobody else may read or write, and gives it away. */
export async function writeSparse(
  path: string,
  { sizeBytes, runs }: SparseContent,
  { uid, gid }: { readonly uid: number; readonly gid: number },
): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    // At once: each of them may wait for a thread, and it does not matter which is first.
    const parts = [
      file.truncate(sizeBytes),
      file.chown(uid, gid),
      ...runs.map(({ start, bytes }) => writeAll(file, bytes, start)),
    ];
    await Promise.allSettled(parts);
    await Promise.all(parts);
  } finally {
    await file.close();
  }
}

/** A disk that is about to be full takes a part, which is no error; only the next write is told. */
async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

/** Runs of pages that are not zero; what is given is overwritten by the next. */
async function* runs(
  file: FileHandle,
  extents: readonly Extent[],
): AsyncGenerator<{ page: number; bytes: Buffer }> {
  const buffer = Buffer.alloc(CHUNK_BYTES);
  for (const { start, end } of extents) {
    // Whole pages: a file system may have smaller blocks.
    for (let at = start - (start % PAGE_BYTES); at < end; ) {
      const wanted = Math.min(CHUNK_BYTES, Math.ceil((end - at) / PAGE_BYTES) * PAGE_BYTES);
      const length = await readUpTo(file, buffer.subarray(0, wanted), at);
      if (length === 0) break;
      let from = 0;
      for (let here = 0; here <= length; here += PAGE_BYTES) {
        const to = Math.min(here + PAGE_BYTES, length);
        if (here < length && buffer.compare(NO_PAGE, 0, to - here, here, to) !== 0) continue;
        if (here > from)
          yield { page: (at + from) / PAGE_BYTES, bytes: buffer.subarray(from, Math.min(here, length)) };
        from = here + PAGE_BYTES;
      }
      // The last page of the file may be cut off.
      if (length % PAGE_BYTES !== 0 && from < length)
        yield { page: (at + from) / PAGE_BYTES, bytes: buffer.subarray(from, length) };
      at += length;
    }
  }
}

/** Short at the end of the file alone. */
async function readUpTo(file: FileHandle, into: Buffer, position: number): Promise<number> {
  for (let done = 0; ; ) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done);
    done += bytesRead;
    if (bytesRead === 0 || done === into.length) return done;
  }
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}
