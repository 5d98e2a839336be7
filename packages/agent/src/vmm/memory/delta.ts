/**
 * What a guest's memory differs by from the file that its process has mapped privately: written when it hibernates, and
 * put back into a process that has mapped the same file, before its guest goes on. So unchanged pages stay shared, the
 * process has as its own exactly what differs, and the next delta is again one of the same file: there are no chains.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { dataExtents } from '@wrenn/host';
import { throwIfAborted } from '../../signals/signals.ts';
import { createIndex, type DeltaRun, indexBytes, parseIndex, TRAILER_BYTES } from './delta-index.ts';
import { createPageSet, type PageSet } from './page-set.ts';
import {
  addressOf,
  allSettled,
  changedRuns,
  isZeroPage,
  type MemoryPlace,
  openOfProcess,
  PAGE_BYTES,
  RUN_PAGES,
  type Run,
  readMemory,
  splitRun,
  writeMemory,
} from './process.ts';

export interface WriteOptions {
  /** The file that is mapped privately. */
  readonly basePath: string;
  readonly signal: AbortSignal;
}

export interface WrittenDelta {
  /** Pages that the process had as its own, those that were written, and those that are zero since. */
  readonly changedPages: number;
  readonly writtenPages: number;
  readonly zeroedPages: number;
}

/** `path` must not exist. */
export async function writeDelta(
  source: MemoryPlace,
  path: string,
  { basePath, signal }: WriteOptions,
): Promise<WrittenDelta> {
  return withFiles(async (opened) => {
    const out = await opened(open(path, 'wx', 0o600));
    const base = await opened(open(basePath, 'r'));
    const pagemap = await opened(openOfProcess(source, 'pagemap', 'r'));
    const memory = await opened(openOfProcess(source, 'mem', 'r'));
    const read = (run: Run, into: Buffer): Promise<void> => readMemory(memory, into, addressOf(source, run));
    const writer = createWriter({ read, base, out, saysZero: () => true });
    const changedPages = await writeAll(writer, changedRuns(pagemap, source), signal);
    return { changedPages, ...(await writer.end(source.sizeBytes)) };
  });
}

export interface ChangedFile {
  /** A sparse file of the memory's size: holes where nothing was written. */
  readonly path: string;
  readonly sizeBytes: number;
  /** What differs even where the file has a hole, which is zero then. */
  readonly changed: PageSet;
}

/**
 * The same from a file that has the changed pages where they belong. Pages that are zero in it and not in `changed`
 * are the base's: a file system may tell more data than was written.
 */
export async function writeDeltaOfFile(
  { path: from, sizeBytes, changed }: ChangedFile,
  path: string,
  { basePath, signal }: WriteOptions,
): Promise<WrittenDelta> {
  const looked = createPageSet(sizeBytes / PAGE_BYTES, changed);
  for (const { start, end } of await dataExtents(from, { signal })) {
    const first = Math.floor(start / PAGE_BYTES);
    looked.add(first, Math.ceil(end / PAGE_BYTES) - first);
  }
  return withFiles(async (opened) => {
    const out = await opened(open(path, 'wx', 0o600));
    const base = await opened(open(basePath, 'r'));
    const file = await opened(open(from, 'r'));
    const read = ({ first }: Run, into: Buffer): Promise<void> => readMemory(file, into, first * PAGE_BYTES);
    const writer = createWriter({ read, base, out, saysZero: (page) => changed.has(page) });
    const changedPages = await writeAll(writer, looked.runs(), signal);
    return { changedPages, ...(await writer.end(sizeBytes)) };
  });
}

type KeepOpen = (opening: Promise<FileHandle>) => Promise<FileHandle>;

async function withFiles<T>(work: (opened: KeepOpen) => Promise<T>): Promise<T> {
  const files: FileHandle[] = [];
  try {
    return await work(async (opening) => {
      const file = await opening;
      files.push(file);
      return file;
    });
  } finally {
    for (const file of files) await file.close();
  }
}

/** Returns how many pages there were. */
async function writeAll(
  writer: Writer,
  runs: Iterable<Run> | AsyncIterable<Run>,
  signal: AbortSignal,
): Promise<number> {
  let [all, pages] = [0, 0];
  let batch: Run[] = [];
  const flush = async (): Promise<void> => {
    throwIfAborted(signal);
    all += pages;
    await writer.add(batch);
    batch = [];
    pages = 0;
  };
  for await (const run of runs) {
    if (pages + run.count > RUN_PAGES) await flush();
    batch.push(run);
    pages += run.count;
  }
  await flush();
  return all;
}

interface Writer {
  /** At most `RUN_PAGES` pages. */
  add(batch: readonly Run[]): Promise<void>;
  end(memoryBytes: number): Promise<Omit<WrittenDelta, 'changedPages'>>;
}

interface WriterParts {
  readonly read: (run: Run, into: Buffer) => Promise<void>;
  readonly base: FileHandle;
  readonly out: FileHandle;
  /** Whether a page that is zero is so in the guest. */
  readonly saysZero: (page: number) => boolean;
}

function createWriter({ read, base, out, saysZero }: WriterParts): Writer {
  const buffer = Buffer.alloc(RUN_PAGES * PAGE_BYTES);
  const before = Buffer.alloc(RUN_PAGES * PAGE_BYTES);
  const index = createIndex();
  let written = 0;
  let zeroed = 0;

  const readAll = (batch: readonly Run[]): Promise<void> => {
    let at = 0;
    const reads = batch.map((run) => {
      const into = buffer.subarray(at, at + run.count * PAGE_BYTES);
      at += into.length;
      return read(run, into);
    });
    return allSettled(reads);
  };
  const readBase = async ({ first, count }: Run): Promise<void> => {
    await readMemory(base, before.subarray(0, count * PAGE_BYTES), first * PAGE_BYTES);
  };

  return {
    add: async (batch) => {
      await readAll(batch);
      let [at, kept] = [0, 0];
      for (const run of batch) {
        let isBaseRead = false;
        for (let i = 0; i < run.count; i++, at += PAGE_BYTES) {
          if (!isZeroPage(buffer, at)) {
            // To where there was a page that is not written, or itself.
            buffer.copyWithin(kept, at, at + PAGE_BYTES);
            kept += PAGE_BYTES;
            index.add(run.first + i, false);
            continue;
          }
          if (!saysZero(run.first + i)) continue;
          if (!isBaseRead) await readBase(run);
          isBaseRead = true;
          // What is zero in the base too need not be said.
          if (isZeroPage(before, i * PAGE_BYTES)) continue;
          index.add(run.first + i, true);
          zeroed++;
        }
      }
      await writeMemory(out, buffer.subarray(0, kept), written * PAGE_BYTES);
      written += kept / PAGE_BYTES;
    },
    end: async (memoryBytes) => {
      await writeMemory(out, index.encode(memoryBytes), written * PAGE_BYTES);
      return { writtenPages: written, zeroedPages: zeroed };
    },
  };
}

/**
 * Puts it into a process that has mapped the same file as the one that it was written from, and that has changed
 * nothing of it yet. Throws `snapshot_corrupt` if that is no delta of memory of this size.
 */
export async function applyDelta(path: string, target: MemoryPlace, signal: AbortSignal): Promise<void> {
  const file = await open(path, 'r');
  try {
    const runs = await readIndex(file, target.sizeBytes);
    const memory = await openOfProcess(target, 'mem', 'r+');
    try {
      await putAll(file, memory, runs, target, signal);
    } finally {
      await memory.close();
    }
  } finally {
    await file.close();
  }
}

async function readIndex(file: FileHandle, memoryBytes: number): Promise<Iterable<DeltaRun>> {
  const { size } = await file.stat();
  const trailer = Buffer.alloc(TRAILER_BYTES);
  // One that is shorter has no trailer.
  await file.read(trailer, 0, TRAILER_BYTES, Math.max(0, size - TRAILER_BYTES));
  const index = Buffer.alloc(indexBytes(trailer, size, memoryBytes));
  await readMemory(file, index, size - TRAILER_BYTES - index.length);
  return parseIndex(index, size, memoryBytes);
}

async function putAll(
  file: FileHandle,
  memory: FileHandle,
  runs: Iterable<DeltaRun>,
  target: MemoryPlace,
  signal: AbortSignal,
): Promise<void> {
  const buffer = Buffer.alloc(RUN_PAGES * PAGE_BYTES);
  const zeroes = Buffer.alloc(RUN_PAGES * PAGE_BYTES);
  let position = 0;
  let batch: Run[] = [];
  let pages = 0;
  const flush = async (): Promise<void> => {
    throwIfAborted(signal);
    await readMemory(file, buffer.subarray(0, pages * PAGE_BYTES), position);
    position += pages * PAGE_BYTES;
    let at = 0;
    const writes = batch.map((run) => {
      const bytes = buffer.subarray(at, at + run.count * PAGE_BYTES);
      at += bytes.length;
      return writeMemory(memory, bytes, addressOf(target, run));
    });
    batch = [];
    pages = 0;
    await allSettled(writes);
  };
  for (const { isZero, ...whole } of runs) {
    for (const run of splitRun(target, whole)) {
      if (isZero) {
        throwIfAborted(signal);
        await writeMemory(memory, zeroes.subarray(0, run.count * PAGE_BYTES), addressOf(target, run));
        continue;
      }
      if (pages + run.count > RUN_PAGES) await flush();
      batch.push(run);
      pages += run.count;
    }
  }
  await flush();
}
