/** Files that must be whole or absent, sparse copies, and file systems in files. */
import { randomUUID } from 'node:crypto';
import { open, rename, rm, statfs, truncate } from 'node:fs/promises';
import { dirname } from 'node:path';
import { runCommand } from './command.ts';

const COPY_TIMEOUT_MS = 120_000;
const MAKE_FILE_SYSTEM_TIMEOUT_MS = 60_000;

/** A file that is whole and lasts, under another name yet. */
export interface PreparedFile {
  /**
   * Gives it its name, in place of what has it now. It has it for ever then, unless `mayBeOld`: then a power cut may bring back
   * what had it before, as whole as this one.
   */
  commit(options?: { readonly mayBeOld?: boolean }): Promise<void>;
  /** Removes it. */
  discard(): Promise<void>;
}

/** Writes beside and syncs; the rest is a rename. */
export async function prepareFile(
  path: string,
  data: string | Uint8Array,
  options: { readonly mode?: number } = {},
): Promise<PreparedFile> {
  const beside = `${path}.${randomUUID()}.tmp`;
  const discard = (): Promise<void> => rm(beside, { force: true });
  try {
    const file = await open(beside, 'wx', options.mode ?? 0o644);
    try {
      await file.writeFile(data);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    await discard();
    throw error;
  }
  return {
    commit: async ({ mayBeOld = false } = {}) => {
      await rename(beside, path);
      if (!mayBeOld) await syncDirectory(dirname(path));
    },
    discard,
  };
}

/** Writes beside, syncs and renames: after a crash the file is the old one or the new one, never half of it. */
export async function writeFileDurably(
  path: string,
  data: string | Uint8Array,
  options: { readonly mode?: number; readonly mayBeOld?: boolean } = {},
): Promise<void> {
  const prepared = await prepareFile(path, data, options);
  try {
    await prepared.commit(options);
  } catch (error) {
    await prepared.discard();
    throw error;
  }
}

/** Makes what was written to a file survive a power cut. */
export async function syncFile(file: string): Promise<void> {
  const handle = await open(file, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Makes renames and removals in a directory survive a power cut. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** Copies a file without filling its holes; shares the blocks where the file system can. */
export async function copySparse(
  from: string,
  to: string,
  options: { readonly signal?: AbortSignal } = {},
): Promise<void> {
  await runCommand('cp', ['--reflink=auto', '--sparse=always', '--no-target-directory', '--', from, to], {
    timeoutMs: COPY_TIMEOUT_MS,
    signal: options.signal,
  });
}

/** What an unprivileged user could still write on the file system that holds `path`. */
export async function freeBytes(path: string): Promise<number> {
  const stats = await statfs(path);
  return stats.bavail * stats.bsize;
}

export interface Ext4Options {
  readonly label?: string;
  readonly signal?: AbortSignal;
}

/**
 * Makes a sparse file of `sizeMib` with an empty ext4 on it; only its metadata takes space at first.
 *
 * No journal: the layer lives as long as its sandbox, so there is never an old state to recover, and
 * mounting and writing are quicker. The inode tables are neither written here (4 GiB would take 64 MiB at once)
 * nor by the guest's kernel after the mount: the file is all zeroes already, and its block groups say so.
 * That needs e2fsprogs 1.47. Measured: 8 ms and 172 KiB for 4 GiB.
 */
export async function makeExt4(path: string, sizeMib: number, options: Ext4Options = {}): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  await file.close();
  await truncate(path, sizeMib * 1024 * 1024);
  const features = '^has_journal,^resize_inode,^metadata_csum,uninit_bg';
  const extended = 'assume_storage_prezeroed=1,nodiscard,root_owner=0:0';
  const label = options.label === undefined ? [] : ['-L', options.label];
  await runCommand(
    'mkfs.ext4',
    ['-q', '-F', '-b', '4096', '-m', '0', '-O', features, '-E', extended, ...label, '--', path],
    {
      timeoutMs: MAKE_FILE_SYSTEM_TIMEOUT_MS,
      signal: options.signal,
    },
  );
}
