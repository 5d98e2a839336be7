/**
 * A guest's memory, from the process that has it to a file. The file begins as a copy of the memory that the guest was
 * restored from, if there is one, and of the process only those pages are read that it has made its own since: a
 * private mapping keeps them apart, and /proc/PID/pagemap tells them.
 *
 * The process belongs to a guest that nobody trusts: whatever is read is data, and never more than `sizeBytes` of it.
 */
import { type FileHandle, open, truncate } from 'node:fs/promises';
import { copySparse } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted } from '../../signals/signals.ts';

export interface MemorySource {
  readonly pid: number;
  /** Where the guest's memory begins in the process; a whole number of pages, as is `sizeBytes`. */
  readonly address: number;
  readonly sizeBytes: number;
}

export interface CopyOptions {
  /** The file that is mapped privately; undefined for memory without one. */
  readonly parentPath: string | undefined;
  readonly signal: AbortSignal;
}

export interface CopiedMemory {
  /** Pages that the process had as its own, and those of them that were not zero. */
  readonly changedPages: number;
  readonly writtenPages: number;
}

export const PAGE_BYTES = 4096;
const ENTRY_BYTES = 8;
/** Pages whose entries are read at once, and pages that are copied at once. */
const ENTRIES_PAGES = 32_768;
const RUN_PAGES = 256;
const NO_PAGE = Buffer.alloc(PAGE_BYTES);

/** `path` must not exist. Its holes read as zero, as the guest's pages there do. */
export async function copyMemory(
  source: MemorySource,
  path: string,
  { parentPath, signal }: CopyOptions,
): Promise<CopiedMemory> {
  if (parentPath === undefined) await (await open(path, 'wx', 0o600)).close();
  else await copySparse(parentPath, path, { signal });
  await truncate(path, source.sizeBytes);
  const files: FileHandle[] = [];
  const opened = async (name: string, flags: string): Promise<FileHandle> => {
    const file = await open(name, flags);
    files.push(file);
    return file;
  };
  try {
    const out = await opened(path, 'r+');
    const pagemap = await opened(`/proc/${source.pid}/pagemap`, 'r');
    const memory = await opened(`/proc/${source.pid}/mem`, 'r');
    const copyRun = createRunCopier(memory, out, source.address, parentPath !== undefined);
    let [changedPages, writtenPages] = [0, 0];
    for await (const { first, count } of changedRuns(pagemap, source)) {
      throwIfAborted(signal);
      changedPages += count;
      writtenPages += await copyRun(first, count);
    }
    return { changedPages, writtenPages };
  } finally {
    for (const file of files) await file.close();
  }
}

interface Run {
  readonly first: number;
  readonly count: number;
}

/** Pages next to one another that the process has made its own: present and not the file's, or swapped out. */
async function* changedRuns(pagemap: FileHandle, { address, sizeBytes }: MemorySource): AsyncGenerator<Run> {
  const pages = sizeBytes / PAGE_BYTES;
  const buffer = Buffer.alloc(Math.min(pages, ENTRIES_PAGES) * ENTRY_BYTES);
  for (let start = 0; start < pages; start += ENTRIES_PAGES) {
    const count = Math.min(ENTRIES_PAGES, pages - start);
    const position = (address / PAGE_BYTES + start) * ENTRY_BYTES;
    // Of a process that has ended there is none, which is not the same as unchanged.
    await readFully(pagemap, buffer, count * ENTRY_BYTES, position);
    let first = -1;
    for (let page = 0; page <= count; page++) {
      const isChanged = page < count && isOwn(buffer, page);
      if (first >= 0 && (!isChanged || page - first === RUN_PAGES)) {
        yield { first: start + first, count: page - first };
        first = -1;
      }
      if (isChanged && first < 0) first = page;
    }
  }
}

/** Bits 63, 62 and 61 of an entry: present, swapped, of a file or shared (Documentation/admin-guide/mm/pagemap). */
function isOwn(entries: Buffer, page: number): boolean {
  const flags = entries.readUInt8(page * ENTRY_BYTES + ENTRY_BYTES - 1) >> 5;
  const [present, swapped, ofFile] = [flags & 4, flags & 2, flags & 1];
  return swapped !== 0 || (present !== 0 && ofFile === 0);
}

/** Copies one run, and returns how many of its pages were not zero. */
function createRunCopier(
  memory: FileHandle,
  out: FileHandle,
  address: number,
  hasParent: boolean,
): (first: number, count: number) => Promise<number> {
  const read = Buffer.alloc(RUN_PAGES * PAGE_BYTES);
  const before = Buffer.alloc(PAGE_BYTES);

  const writeAll = async (from: number, to: number, first: number): Promise<void> => {
    let done = from * PAGE_BYTES;
    const end = to * PAGE_BYTES;
    while (done < end) {
      const { bytesWritten } = await out.write(read, done, end - done, first * PAGE_BYTES + done);
      done += bytesWritten;
    }
  };
  /** What was not zero in the parent must be so here. */
  const clear = async (page: number): Promise<void> => {
    await out.read(before, 0, PAGE_BYTES, page * PAGE_BYTES);
    if (!before.equals(NO_PAGE)) await out.write(NO_PAGE, 0, PAGE_BYTES, page * PAGE_BYTES);
  };

  return async (first, count) => {
    await readFully(memory, read, count * PAGE_BYTES, address + first * PAGE_BYTES);
    let written = 0;
    let from = 0;
    for (let page = 0; page <= count; page++) {
      const isZero =
        page === count || read.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES).equals(NO_PAGE);
      if (!isZero) continue;
      if (page > from) {
        await writeAll(from, page, first);
        written += page - from;
      }
      if (page < count && hasParent) await clear(first + page);
      from = page + 1;
    }
    return written;
  };
}

async function readFully(file: FileHandle, into: Buffer, bytes: number, position: number): Promise<void> {
  for (let done = 0; done < bytes; ) {
    const { bytesRead } = await file.read(into, done, bytes - done, position + done);
    if (bytesRead === 0) throw new WrennError('vmm_died', 'The VMM ended while its memory was read.');
    done += bytesRead;
  }
}
