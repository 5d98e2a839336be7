/**
 * POST /files/compose: several files become one, and are gone after that. The one call that writes beside
 * and renames: until all is there, what the destination held before stays.
 */
import { constants } from 'node:fs';
import { type FileHandle, open, rename, stat, unlink } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { ensureDirs, type Owner } from '../filesystem/ensure-dirs.ts';
import { isMissing } from '../filesystem/fs-errors.ts';
import { randomHex } from '../sys/random.ts';
import { streamFile } from './file-stream.ts';
import { refusal } from './refusal.ts';
import type { UploadedFile } from './upload.ts';
import { refuseIfFull, type WriteDependencies, writeAll } from './write-file.ts';

export interface ComposeRequest {
  readonly sourcePaths: readonly string[];
  readonly destination: string;
  readonly username: string | undefined;
}

const BODY_MAX_BYTES = 4 * 1024 * 1024;
const SOURCES_MAX = 10_000;
const FILE_MODE = 0o644;

export async function parseComposeRequest(body: AsyncIterable<Uint8Array> | null): Promise<ComposeRequest> {
  const value = parseJson(await readBounded(body));
  if (typeof value !== 'object' || value === null) throw refusal(400, 'the body is no JSON object');
  const fields: Readonly<Record<string, unknown>> = { ...value };
  const { source_paths: sources, destination, username } = fields;
  if (!Array.isArray(sources) || sources.length === 0) throw refusal(400, 'source_paths must not be empty');
  if (sources.length > SOURCES_MAX) throw refusal(400, `source_paths has more than ${SOURCES_MAX} paths`);
  const sourcePaths = sources.filter((source) => typeof source === 'string');
  if (sourcePaths.length < sources.length) throw refusal(400, 'source_paths must be strings');
  if (typeof destination !== 'string' || destination === '') throw refusal(400, 'destination is required');
  if (username !== undefined && username !== null && typeof username !== 'string') {
    throw refusal(400, 'username must be a string');
  }
  return { sourcePaths, destination, username: username || undefined };
}

/** All paths are resolved. */
export async function compose(
  sources: readonly string[],
  destination: string,
  owner: Owner,
  { statfs }: Pick<WriteDependencies, 'statfs'>,
): Promise<UploadedFile> {
  let sizeBytes = 0;
  for (const source of sources) {
    if (source === destination) throw refusal(400, `source path '${source}' is the destination too`);
    sizeBytes += await regularSize(source);
  }
  await ensureDirs(dirname(destination), owner);
  refuseIfFull(statfs(dirname(destination)), sizeBytes, 0);

  const beside = `${dirname(destination)}/.compose-${randomHex(16)}.tmp`;
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
  const handle = await open(beside, flags, FILE_MODE);
  try {
    try {
      await handle.chown(owner.uid, owner.gid);
      for (const source of sources) await append(handle, source);
    } finally {
      await handle.close();
    }
    await rename(beside, destination);
  } catch (error) {
    await unlink(beside);
    throw error;
  }
  for (const source of new Set(sources)) await unlink(source).catch(ignoreMissing);
  return { path: destination, name: basename(destination), type: 'file' };
}

async function append(handle: FileHandle, source: string): Promise<void> {
  const from = await open(source, constants.O_RDONLY | constants.O_NONBLOCK);
  const end = (await from.stat()).size;
  if (end === 0) await from.close();
  else await writeAll(handle, streamFile(from, { start: 0, end }));
}

async function regularSize(source: string): Promise<number> {
  const stats = await stat(source).catch((error: unknown) => {
    if (!isMissing(error)) throw error;
    throw refusal(404, `source file not found: ${source}`);
  });
  if (!stats.isFile()) throw refusal(400, `source path is not a regular file: ${source}`);
  return stats.size;
}

function ignoreMissing(error: unknown): void {
  if (!isMissing(error)) throw error;
}

async function readBounded(body: AsyncIterable<Uint8Array> | null): Promise<string> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of body ?? []) {
    bytes += piece.byteLength;
    if (bytes > BODY_MAX_BYTES) throw refusal(413, `the body has more than ${BODY_MAX_BYTES} bytes`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString('utf8');
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw refusal(400, 'invalid request body: not JSON');
  }
}
