/** Writes what streams in to a file, in place, and owned by the user. See the README for why in place. */
import { constants, type Stats } from 'node:fs';
import { chown, type FileHandle, lstat, open, stat, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { ensureDirs, type Owner } from '../filesystem/ensure-dirs.ts';
import { isMissing } from '../filesystem/fs-errors.ts';
import { type Metadata, writeMetadata, type Xattrs } from '../filesystem/metadata.ts';
import type { FileSystemStats } from '../sys/libc.ts';
import { DISK_FULL, refusal } from './refusal.ts';

export interface WriteRequest {
  readonly path: string;
  readonly owner: Owner;
  readonly metadata: Metadata;
  /** Undefined where the client has not said. */
  readonly sizeBytes: number | undefined;
}

export interface WriteDependencies {
  readonly xattrs: Xattrs;
  statfs(path: string): FileSystemStats;
}

const FILE_MODE = 0o644;

/** On failure, a file that was not there before is not there after. */
export async function writeFile(
  request: WriteRequest,
  chunks: AsyncIterable<Uint8Array>,
  { xattrs, statfs }: WriteDependencies,
): Promise<void> {
  const { path, owner } = request;
  await ensureDirs(dirname(path), owner);
  const existing = await regularFileIfThere(path);
  if (request.sizeBytes !== undefined) {
    const stats = statfs(existing === undefined ? dirname(path) : path);
    refuseIfFull(stats, request.sizeBytes, existing?.size ?? 0);
  }
  // Before the contents, so that the user never finds a file that is not theirs. Files of the kernel
  // cannot be given away, and need not be where they belong to the user already.
  if (existing !== undefined && (existing.uid !== owner.uid || existing.gid !== owner.gid)) {
    await chown(path, owner.uid, owner.gid);
  }
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NONBLOCK;
  const handle = await open(path, flags, FILE_MODE);
  try {
    if (existing === undefined) await handle.chown(owner.uid, owner.gid);
    await writeAll(handle, chunks);
    writeMetadata(xattrs, `/proc/self/fd/${handle.fd}`, request.metadata);
  } catch (error) {
    if (existing === undefined) await removeOwn(handle, path);
    throw error;
  } finally {
    await handle.close();
  }
}

/** Undefined where there is nothing yet, or a link that leads nowhere. Only regular files are written to. */
async function regularFileIfThere(path: string): Promise<Stats | undefined> {
  try {
    const stats = await stat(path);
    if (stats.isDirectory()) throw refusal(400, `path is a directory: ${path}`);
    if (!stats.isFile()) throw refusal(400, `path is not a regular file: ${path}`);
    return stats;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Told before anything is touched. File systems of the kernel have no size, and are never full. */
export function refuseIfFull(stats: FileSystemStats, sizeBytes: number, reclaimedBytes: number): void {
  if (stats.totalBytes === 0 || sizeBytes <= stats.freeBytes + reclaimedBytes) return;
  throw refusal(DISK_FULL, `not enough disk space available: ${sizeBytes} bytes do not fit`);
}

/** While one write is under way the next bytes gather in the socket, so nothing else needs to gather them. */
export async function writeAll(handle: FileHandle, chunks: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const chunk of chunks) {
    // A write may stop anywhere, at the end of the disk above all: the next one then says why.
    for (let written = 0; written < chunk.byteLength; ) {
      const { bytesWritten } = await handle.write(chunk, written, chunk.byteLength - written);
      written += bytesWritten;
    }
  }
}

/** Takes the half file away, unless its name has come to mean another one. */
async function removeOwn(handle: FileHandle, path: string): Promise<void> {
  const [own, named] = await Promise.all([handle.stat(), lstat(path).catch(() => undefined)]);
  if (named !== undefined && own.ino === named.ino && own.dev === named.dev) await unlink(path);
}
