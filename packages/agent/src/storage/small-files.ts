/**
 * Small sparse files that are copied again and again, kept in memory: to write such a one anew takes a fraction of the time
 * that it takes to start a program which copies it. For files that do not change any more.
 */
import { stat } from 'node:fs/promises';
import { readSparse, type SparseContent } from '@wrenn/host';

export interface SmallFiles {
  /** Undefined where the file is not small, and another way is to be found. */
  content(path: string, signal: AbortSignal): Promise<SparseContent | undefined>;
}

/** A layer that was only booted from has some 150 KiB. */
const SMALL_BYTES = 1024 * 1024;
/** Those that were asked for longest ago go. */
const KEPT_MAX = 16;

export function createSmallFiles(): SmallFiles {
  /** In the order in which they were last asked for. */
  const kept = new Map<string, SparseContent | undefined>();
  return {
    content: async (path, signal) => {
      const { ino, size, mtimeMs } = await stat(path);
      const key = `${ino} ${size} ${mtimeMs} ${path}`;
      const found = kept.has(key) ? kept.get(key) : await readSparse(path, SMALL_BYTES, { signal });
      kept.delete(key);
      kept.set(key, found);
      const [oldest = key] = kept.keys();
      if (kept.size > KEPT_MAX) kept.delete(oldest);
      return found;
    },
  };
}
