/**
 * Builds beside and publishes by a rename, so that what is half built never counts as built; and the
 * lock that keeps two set-ups of one WRENN_DIR apart.
 */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { freeBytes, missingProgram, plainEnvironment, syncDirectory, writeFileDurably } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

const BUILDING = '.building-';
/** Held by whoever changes what is published. */
export const LOCK_NAME = 'setup.lock';

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
  const beside = join(parent, `${BUILDING}${randomUUID()}`);
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

/** Removes what builds left that were ended half way. To be called by the holder of the lock alone. */
export async function removeLeftovers(parent: string): Promise<void> {
  for (const name of await readdir(parent).catch(() => [])) {
    if (name.startsWith(BUILDING))
      await rm(join(parent, name), { recursive: true, force: true, maxRetries: 3 });
  }
}

/** Takes a directory out of sight in one step, and then away; after a crash in between it counts as a leftover. */
export async function retract(parent: string, name: string): Promise<void> {
  const dying = join(parent, `${BUILDING}${randomUUID()}`);
  await rename(join(parent, name), dying);
  await syncDirectory(parent);
  await rm(dying, { recursive: true, force: true, maxRetries: 3 });
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

const LOCKED = 'locked\n';
/** A lock that nobody holds is had well within this; longer means that somebody holds it. */
const LOCK_NOTICE_MS = 500;
const PID_MAX_CHARS = 16;

/**
 * Runs `work` while holding the lock file; waits for another holder. Throws `cancelled` when the signal is
 * aborted while waiting.
 *
 * The lock is the kernel's: flock(1) takes it and becomes a `cat` that holds it until its stdin, which this
 * process has, is closed. It ends with this process, however that ends, so no lock is ever stale. The file
 * stays, because another one of the same name would be another lock; in it is the holder's pid, for people.
 */
export async function withLock<T>(
  path: string,
  options: { readonly signal?: AbortSignal | undefined; readonly onWait: (pid: number) => void },
  work: () => Promise<T>,
): Promise<T> {
  const cancelled = () =>
    new WrennError('cancelled', 'The wait for another set-up was cancelled.', {
      cause: options.signal?.reason,
    });
  if (options.signal?.aborted) throw cancelled();
  // In a session of its own: a Ctrl+C in the terminal is for us, and the lock is held until we have tidied up.
  const holder = spawn('flock', ['--exclusive', '--no-fork', path, 'cat'], {
    detached: true,
    env: plainEnvironment(),
    shell: false,
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const ended = new Promise<Error | 'ended'>((resolve) => {
    holder.once('error', resolve);
    holder.once('exit', () => resolve('ended'));
  });
  const held = new Promise<'held'>((resolve) => holder.stdout.once('data', () => resolve('held')));
  // It may be gone before it reads; its end tells.
  holder.stdin.on('error', () => {});
  holder.stdin.write(LOCKED);

  const notice = setTimeout(() => {
    readHolder(path).then((pid) => pid !== undefined && options.onWait(pid));
  }, LOCK_NOTICE_MS);
  const onAbort = () => holder.kill('SIGTERM');
  options.signal?.addEventListener('abort', onAbort, { once: true });
  try {
    const outcome = await Promise.race([held, ended]);
    if (outcome !== 'held') {
      if (options.signal?.aborted) throw cancelled();
      if (outcome === 'ended') {
        throw new WrennError('missing_privilege', `${path} cannot be locked.`, {
          hint: 'Run it again with sudo, or set WRENN_DIR to a directory of your own.',
        });
      }
      throw missingProgram('flock', outcome);
    }
  } finally {
    clearTimeout(notice);
    options.signal?.removeEventListener('abort', onAbort);
  }
  try {
    await writeFile(path, `${process.pid}\n`);
    return await work();
  } finally {
    holder.stdin.end();
    await ended;
  }
}

async function readHolder(path: string): Promise<number | undefined> {
  const text = (await readFile(path, 'utf8').catch(() => '')).trim().slice(0, PID_MAX_CHARS);
  return /^\d+$/.test(text) ? Number(text) : undefined;
}
