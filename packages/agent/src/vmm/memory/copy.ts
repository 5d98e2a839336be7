/**
 * A guest's memory, from the process that has it to a file that has all of it. The file begins as a copy of the memory
 * that the guest was restored from, if there is one, and of the process only those pages are read that it has made its
 * own since.
 */
import { type FileHandle, open, truncate } from 'node:fs/promises';
import { copySparse } from '@wrenn/host';
import { throwIfAborted } from '../../signals/signals.ts';
import type { PageSet } from './page-set.ts';
import {
  addressOf,
  changedRuns,
  isZeroPage,
  type MemoryPlace,
  NO_PAGE,
  openOfProcess,
  PAGE_BYTES,
  RUN_PAGES,
  readMemory,
  writeMemory,
} from './process.ts';

export interface CopyOptions {
  /** The file that is mapped privately; undefined for memory without one. */
  readonly parentPath: string | undefined;
  /** Where to write down which pages the process had as its own. */
  readonly changed?: PageSet;
  readonly signal: AbortSignal;
}

export interface CopiedMemory {
  /** Pages that the process had as its own, and those of them that were not zero. */
  readonly changedPages: number;
  readonly writtenPages: number;
}

/** `path` must not exist. Its holes read as zero, as the guest's pages there do. */
export async function copyMemory(
  source: MemoryPlace,
  path: string,
  { parentPath, changed, signal }: CopyOptions,
): Promise<CopiedMemory> {
  if (parentPath === undefined) await (await open(path, 'wx', 0o600)).close();
  else await copySparse(parentPath, path, { signal });
  await truncate(path, source.sizeBytes);
  const files: FileHandle[] = [];
  const opened = async (opening: Promise<FileHandle>): Promise<FileHandle> => {
    const file = await opening;
    files.push(file);
    return file;
  };
  try {
    const out = await opened(open(path, 'r+'));
    const pagemap = await opened(openOfProcess(source, 'pagemap', 'r'));
    const memory = await opened(openOfProcess(source, 'mem', 'r'));
    const copyRun = createRunCopier(memory, out, source, parentPath !== undefined);
    let [changedPages, writtenPages] = [0, 0];
    for await (const { first, count } of changedRuns(pagemap, source)) {
      throwIfAborted(signal);
      changedPages += count;
      changed?.add(first, count);
      writtenPages += await copyRun(first, count);
    }
    return { changedPages, writtenPages };
  } finally {
    for (const file of files) await file.close();
  }
}

/** Copies one run, and returns how many of its pages were not zero. */
function createRunCopier(
  memory: FileHandle,
  out: FileHandle,
  source: MemoryPlace,
  hasParent: boolean,
): (first: number, count: number) => Promise<number> {
  const read = Buffer.alloc(RUN_PAGES * PAGE_BYTES);
  const before = Buffer.alloc(PAGE_BYTES);

  /** What was not zero in the parent must be so here. */
  const clear = async (page: number): Promise<void> => {
    await out.read(before, 0, PAGE_BYTES, page * PAGE_BYTES);
    if (!before.equals(NO_PAGE)) await out.write(NO_PAGE, 0, PAGE_BYTES, page * PAGE_BYTES);
  };

  return async (first, count) => {
    const address = addressOf(source, { first, count });
    await readMemory(memory, read.subarray(0, count * PAGE_BYTES), address);
    let written = 0;
    let from = 0;
    for (let page = 0; page <= count; page++) {
      if (page < count && !isZeroPage(read, page * PAGE_BYTES)) continue;
      if (page > from) {
        const bytes = read.subarray(from * PAGE_BYTES, page * PAGE_BYTES);
        await writeMemory(out, bytes, (first + from) * PAGE_BYTES);
        written += page - from;
      }
      if (page < count && hasParent) await clear(first + page);
      from = page + 1;
    }
    return written;
  };
}
