/** What a VMM's confinement needs to know of the drives. */
import { stat } from 'node:fs/promises';
import { WrennError } from '@wrenn/protocol';
import type { DriveSpec } from './driver.ts';

export function drivePaths(drives: readonly DriveSpec[], which: 'read-only' | 'writable'): string[] {
  return drives.filter(({ readOnly }) => readOnly === (which === 'read-only')).map(({ path }) => path);
}

/** Of no writable drive at all. */
const SMALLEST_FILE_LIMIT_BYTES = 1024 * 1024;

/**
 * How large a file of the VMM's may be. The guest cannot make its layer grow; so a VMM that tries to write beyond
 * its end is not its own master. Throws `file_not_found`.
 */
export async function largestWritable(drives: readonly DriveSpec[]): Promise<number> {
  const sizes = await Promise.all(drivePaths(drives, 'writable').map(sizeOf));
  return Math.max(SMALLEST_FILE_LIMIT_BYTES, ...sizes);
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    throw new WrennError('file_not_found', `The drive ${path} cannot be read.`, { cause: error });
  }
}
