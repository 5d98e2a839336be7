/**
 * What a guest's memory differs by from the file that its process has mapped privately: written when it hibernates, and
 * put back into a process that has mapped the same file, before its guest goes on. So unchanged pages stay shared, the
 * process has as its own exactly what differs, and the next delta is again one of the same file: there are no chains.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { throwIfAborted } from '../../signals/signals.ts';
import { createIndex, type DeltaRun, indexBytes, parseIndex, TRAILER_BYTES } from './delta-index.ts';
import {
  allSettled,
  changedRuns,
  isZeroPage,
  type MemoryPlace,
  openOfProcess,
  PAGE_BYTES,
  RUN_PAGES,
  type Run,
  readMemory,
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
  const files: FileHandle[] = [];
  const opened = async (opening: Promise<FileHandle>): Promise<FileHandle> => {
    const file = await opening;
    files.push(file);
    return file;
  };
  try {
    const out = await opened(open(path, 'wx', 0o600));
    const base = await opened(open(basePath, 'r'));
    const pagemap = await opened(openOfProcess(source, 'pagemap', 'r'));
    const memory = await opened(openOfProcess(source, 'mem', 'r'));
    const writer = createWriter({ memory, base, out }, source.address);
    let changedPages = 0;
    let batch: Run[] = [];
    let pages = 0;
    const flush = async (): Promise<void> => {
      throwIfAborted(signal);
      changedPages += pages;
      await writer.add(batch);
      batch = [];
      pages = 0;
    };
    for await (const run of changedRuns(pagemap, source)) {
      if (pages + run.count > RUN_PAGES) await flush();
      batch.push(run);
      pages += run.count;
    }
    await flush();
    return { changedPages, ...(await writer.end(source.sizeBytes)) };
  } finally {
    for (const file of files) await file.close();
  }
}

interface Writer {
  /** At most `RUN_PAGES` pages. */
  add(batch: readonly Run[]): Promise<void>;
  end(memoryBytes: number): Promise<Omit<WrittenDelta, 'changedPages'>>;
}

function createWriter(
  { memory, base, out }: Readonly<Record<'memory' | 'base' | 'out', FileHandle>>,
  address: number,
): Writer {
  const buffer = Buffer.alloc(RUN_PAGES * PAGE_BYTES);
  const before = Buffer.alloc(RUN_PAGES * PAGE_BYTES);
  const index = createIndex();
  let written = 0;
  let zeroed = 0;

  const readAll = (batch: readonly Run[]): Promise<void> => {
    let at = 0;
    const reads = batch.map(({ first, count }) => {
      const into = buffer.subarray(at, at + count * PAGE_BYTES);
      at += into.length;
      return readMemory(memory, into, address + first * PAGE_BYTES);
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
      await putAll(file, memory, runs, target.address, signal);
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
  address: number,
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
    const writes = batch.map(({ first, count }) => {
      const bytes = buffer.subarray(at, at + count * PAGE_BYTES);
      at += bytes.length;
      return writeMemory(memory, bytes, address + first * PAGE_BYTES);
    });
    batch = [];
    pages = 0;
    await allSettled(writes);
  };
  for (const { isZero, ...run } of inPieces(runs)) {
    if (isZero) {
      throwIfAborted(signal);
      await writeMemory(memory, zeroes.subarray(0, run.count * PAGE_BYTES), address + run.first * PAGE_BYTES);
      continue;
    }
    if (pages + run.count > RUN_PAGES) await flush();
    batch.push(run);
    pages += run.count;
  }
  await flush();
}

function* inPieces(runs: Iterable<DeltaRun>): Generator<DeltaRun> {
  for (const { first, count, isZero } of runs) {
    for (let done = 0; done < count; done += RUN_PAGES) {
      yield { first: first + done, count: Math.min(RUN_PAGES, count - done), isZero };
    }
  }
}
