/**
 * Builds beside and publishes by a rename, so that what is half built never counts as built; and the
 * lock that keeps two set-ups of one WRENN_DIR apart.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freeBytes, identify, isAlive, syncDirectory, writeFileDurably } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';

/**
 * Calls `build` with an empty directory next to `parent`'s others; what it returns is the name under
 * which the directory is published. On failure nothing is left of it. Publishing over a broken
 * directory of the same name replaces that.
 */
export async function publish(
  parent: string,
  build: (directory: string) => Promise<string>,
): Promise<string> {
  await mkdir(parent, { recursive: true, mode: 0o755 });
  const beside = join(parent, `.building-${randomUUID()}`);
  try {
    await mkdir(beside, { mode: 0o755 });
    const name = await build(beside);
    const published = join(parent, name);
    await syncFiles(beside);
    await rm(published, { recursive: true, force: true });
    await rename(beside, published);
    await syncDirectory(parent);
    return name;
  } finally {
    await rm(beside, { recursive: true, force: true });
  }
}

/** Points at the current build of something. */
export async function pointAt(path: string, id: string): Promise<void> {
  await writeFileDurably(path, `${JSON.stringify({ id })}\n`);
}

async function syncFiles(directory: string): Promise<void> {
  const manifest = await open(join(directory, 'manifest.json'), 'r');
  try {
    // One sync of a file's metadata commits the journal with all that came before it on ext4 and XFS;
    // the data of the large files is synced by their makers.
    await manifest.sync();
  } finally {
    await manifest.close();
  }
  await syncDirectory(directory);
}

/** Flushes one file's data to the disk. */
export async function syncFile(path: string): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Throws `disk_full` unless there is room for `neededBytes` where `path` is. */
export async function requireSpace(path: string, neededBytes: number, what: string): Promise<void> {
  const free = await freeBytes(path);
  if (free >= neededBytes) return;
  const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(1);
  throw new WrennError(
    'disk_full',
    `${what} needs ${gib(neededBytes)} GiB at ${path}; ${gib(free)} GiB are free.`,
    {
      hint: 'Free some space, or set WRENN_DIR to a directory on a larger disk.',
    },
  );
}

const lockSchema = z.object({ pid: z.number().int().positive(), startTime: z.string() });
const LOCK_POLL_MS = 500;

/**
 * Runs `work` while holding the lock file; waits for another holder that lives, takes the lock of one
 * that died. Throws `cancelled` when the signal is aborted while waiting.
 */
export async function withLock<T>(
  path: string,
  options: { readonly signal?: AbortSignal | undefined; readonly onWait: (pid: number) => void },
  work: () => Promise<T>,
): Promise<T> {
  const self = await identify(process.pid);
  let told = false;
  for (;;) {
    try {
      const file = await open(path, 'wx', 0o644);
      await file.writeFile(JSON.stringify(self));
      await file.close();
      break;
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
    }
    const holder = await readHolder(path);
    if (holder === undefined || !(await isAlive(holder))) {
      await rm(path, { force: true });
      continue;
    }
    if (!told) options.onWait(holder.pid);
    told = true;
    await sleep(LOCK_POLL_MS, undefined, options.signal === undefined ? {} : { signal: options.signal });
  }
  try {
    return await work();
  } finally {
    await rm(path, { force: true });
  }
}

async function readHolder(path: string): Promise<{ pid: number; startTime: string } | undefined> {
  // A holder that has just created the file may not have written it yet: look twice.
  for (const attempt of [1, 2]) {
    const text = await readFile(path, 'utf8').catch(() => '');
    try {
      return lockSchema.parse(JSON.parse(text));
    } catch {
      if (attempt === 1) await sleep(LOCK_POLL_MS);
    }
  }
  return undefined;
}
