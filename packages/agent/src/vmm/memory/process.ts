/**
 * The memory of a guest in the process that has it, read and written through /proc. A private mapping keeps apart what
 * the guest has made its own and what still is the mapped file's: /proc/PID/pagemap tells them.
 *
 * The process belongs to a guest that nobody trusts: whatever is read is data, and never more than `sizeBytes` of it.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { isAlive, type ProcessIdentity } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

export interface MemoryPlace extends ProcessIdentity {
  /** Of the guest's memory; a whole number of pages, as everything here. */
  readonly sizeBytes: number;
  /** Where it is in the process: one after the other, in the guest's order, and so in that of the file. */
  readonly parts: readonly MemoryPart[];
}

export interface MemoryPart {
  readonly address: number;
  readonly sizeBytes: number;
}

/** Pages next to one another. */
export interface Run {
  readonly first: number;
  readonly count: number;
}

export const PAGE_BYTES = 4096;
/** Of a run, and so of what is read or written at once. */
export const RUN_PAGES = 256;
export const NO_PAGE = Buffer.alloc(PAGE_BYTES);
const ENTRY_BYTES = 8;
/** Pages whose entries are read at once. */
const ENTRIES_PAGES = 32_768;

/**
 * What is opened stays that of the process that had the number then, and a guest may end its own at any moment: only one
 * that is still there afterwards has been it. Another's memory would be another guest's.
 */
export async function openOfProcess(
  process: ProcessIdentity,
  name: 'mem' | 'pagemap',
  flags: 'r' | 'r+',
): Promise<FileHandle> {
  let file: FileHandle | undefined;
  let cause: unknown;
  try {
    file = await open(`/proc/${process.pid}/${name}`, flags);
  } catch (error) {
    cause = error;
  }
  if (await isAlive(process)) {
    if (file !== undefined) return file;
    throw cause;
  }
  await file?.close();
  throw new WrennError('vmm_died', 'The VMM ended before its memory was opened.', { cause });
}

/**
 * What the process has made its own: present and not the file's, or swapped out. At most `RUN_PAGES` each, and each in
 * one part.
 */
export async function* changedRuns(pagemap: FileHandle, { parts }: MemoryPlace): AsyncGenerator<Run> {
  let before = 0;
  for (const part of parts) {
    for await (const { first, count } of changedRunsIn(pagemap, part)) yield { first: before + first, count };
    before += part.sizeBytes / PAGE_BYTES;
  }
}

async function* changedRunsIn(pagemap: FileHandle, { address, sizeBytes }: MemoryPart): AsyncGenerator<Run> {
  const pages = sizeBytes / PAGE_BYTES;
  const buffer = Buffer.alloc(Math.min(pages, ENTRIES_PAGES) * ENTRY_BYTES);
  for (let start = 0; start < pages; start += ENTRIES_PAGES) {
    const count = Math.min(ENTRIES_PAGES, pages - start);
    const position = (address / PAGE_BYTES + start) * ENTRY_BYTES;
    // Of a process that has ended there is none, which is not the same as unchanged.
    await readMemory(pagemap, buffer.subarray(0, count * ENTRY_BYTES), position);
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

/** Where the run is in the process, which must be in one part of it. */
export function addressOf({ parts }: MemoryPlace, { first, count }: Run): number {
  let before = 0;
  for (const { address, sizeBytes } of parts) {
    const pages = sizeBytes / PAGE_BYTES;
    if (first + count <= before + pages && first >= before) return address + (first - before) * PAGE_BYTES;
    before += pages;
  }
  throw new WrennError('internal', 'Pages that are in no part of the memory.');
}

/** The same pages, each run of them in one part and no longer than `RUN_PAGES`. */
export function* splitRun({ parts }: MemoryPlace, { first, count }: Run): Generator<Run> {
  let end = 0;
  let at = first;
  for (const { sizeBytes } of parts) {
    end += sizeBytes / PAGE_BYTES;
    while (at < Math.min(end, first + count)) {
      const pages = Math.min(RUN_PAGES, end - at, first + count - at);
      yield { first: at, count: pages };
      at += pages;
    }
  }
}

/** Bits 63, 62 and 61 of an entry: present, swapped, of a file or shared (Documentation/admin-guide/mm/pagemap). */
function isOwn(entries: Buffer, page: number): boolean {
  const flags = entries.readUInt8(page * ENTRY_BYTES + ENTRY_BYTES - 1) >> 5;
  const [present, swapped, ofFile] = [flags & 4, flags & 2, flags & 1];
  return swapped !== 0 || (present !== 0 && ofFile === 0);
}

/** Fills `into`, of the memory or the page map of a process. */
export async function readMemory(file: FileHandle, into: Buffer, position: number): Promise<void> {
  for (let done = 0; done < into.length; ) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) throw new WrennError('vmm_died', 'The VMM ended while its memory was read.');
    done += bytesRead;
  }
}

export async function writeMemory(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    if (bytesWritten === 0) throw new WrennError('vmm_died', 'The VMM ended while its memory was written.');
    done += bytesWritten;
  }
}

export function isZeroPage(bytes: Buffer, at: number): boolean {
  return bytes.compare(NO_PAGE, 0, PAGE_BYTES, at, at + PAGE_BYTES) === 0;
}

/** Not before all have settled: what is still at work uses what the caller is about to close. */
export async function allSettled(work: readonly Promise<unknown>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(work))
    if (outcome.status === 'rejected') throw outcome.reason;
}
