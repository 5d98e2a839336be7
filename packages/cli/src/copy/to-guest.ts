/** Files and directories of the host into a sandbox. */
import { constants } from 'node:fs';
import { type FileHandle, open, readdir, stat } from 'node:fs/promises';
import { basename, join, posix } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import { hasErrno } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { FileEntry_Type } from '@wrenn/protocol/agent';
import { type Guest, makeDirectory, PERMISSIONS, statFile, writeFile } from './guest-files.ts';
import { A_LINK, NO_FILE, type Skips } from './skips.ts';

const CHUNK_BYTES = 256 * 1024;
/** A FIFO that has come into a file's place must not wait for its writer. */
const READ = constants.O_RDONLY | constants.O_NONBLOCK;

export async function copyToGuest(guest: Guest, path: string, to: string, skips: Skips): Promise<void> {
  const found = await stat(path).catch((cause: unknown) => {
    throw cannotRead(path, cause);
  });
  const target = await placeInGuest(guest, to, path);
  if (found.isDirectory()) await sendDirectory(guest, path, target, skips);
  else if (!found.isFile() || !(await sendFile(guest, path, target, READ))) {
    throw new WrennError('invalid_path', `${path} is neither a file nor a directory.`);
  }
}

/** As cp does: into a directory that is there, else under the name that was given. */
async function placeInGuest(guest: Guest, path: string, source: string): Promise<string> {
  const isDirectory = await statFile(guest, path).then(
    ({ type }) => type === FileEntry_Type.DIRECTORY,
    (error: unknown) => {
      if (error instanceof ConnectError && error.code === Code.NotFound) return path.endsWith('/');
      throw error;
    },
  );
  const name = basename(source);
  // `..` has no name that could be one below: what is in it goes into the directory itself.
  return isDirectory && name !== '..' ? posix.join(path, name) : path;
}

async function sendDirectory(guest: Guest, path: string, target: string, skips: Skips): Promise<void> {
  await makeDirectory(guest, target);
  const entries = await readdir(path, { withFileTypes: true }).catch((cause: unknown) => {
    throw cannotRead(path, cause);
  });
  for (const entry of entries) {
    const [from, to] = [join(path, entry.name), posix.join(target, entry.name)];
    if (entry.isSymbolicLink()) skips.add(from, A_LINK);
    else if (entry.isDirectory()) await sendDirectory(guest, from, to, skips);
    else if (!entry.isFile() || !(await sendFile(guest, from, to, READ | constants.O_NOFOLLOW)))
      skips.add(from, NO_FILE);
  }
}

/** False where it is no file, or is none any more. */
async function sendFile(guest: Guest, path: string, target: string, flags: number): Promise<boolean> {
  const handle = await open(path, flags).catch((cause: unknown) => {
    if (hasErrno(cause, 'ELOOP', 'ENXIO')) return undefined;
    throw cannotRead(path, cause);
  });
  if (handle === undefined) return false;
  const mode = await modeOfFile(handle);
  if (mode === undefined) return false;
  await writeFile(guest, handle.createReadStream({ highWaterMark: CHUNK_BYTES }), target, mode);
  return true;
}

/** Of what is no file it is undefined, and the handle closed. */
async function modeOfFile(handle: FileHandle): Promise<number | undefined> {
  const found = await handle.stat();
  if (found.isFile()) return found.mode & PERMISSIONS;
  await handle.close();
  return undefined;
}

function cannotRead(path: string, cause: unknown): WrennError {
  return new WrennError('file_not_found', `${path} does not exist or cannot be read.`, { cause });
}
