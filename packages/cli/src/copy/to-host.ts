/**
 * Files and directories of a sandbox onto the host. A guest chooses their names, kinds and number, and may lie about each:
 * nothing of it leads out of the place that was named, and there is an end to what it has.
 */
import { constants } from 'node:fs';
import { type FileHandle, lstat, mkdir, open, stat } from 'node:fs/promises';
import { dirname, join, posix } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { hasErrno, isDiskFull } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { type FileEntry, FileEntry_Type } from '@wrenn/protocol/agent';
import { type Guest, listDirectory, PERMISSIONS, readFile, statFile } from './guest-files.ts';
import { A_LINK, IN_THE_WAY, NO_FILE, type Skips } from './skips.ts';

export interface CopyLimits {
  readonly maxLevels: number;
  /** Files and directories that the guest tells of; each is kept while its directory is copied. */
  readonly maxEntries: number;
}

const LIMITS: CopyLimits = { maxLevels: 128, maxEntries: 500_000 };
const NAME_MAX_BYTES = 255;
const WRITE = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC;

/** Where something goes. */
interface Place {
  readonly path: string;
  /** Whether that was asked for as it is: it may be a link then, or a device. */
  readonly isNamed: boolean;
}

interface Walk {
  readonly guest: Guest;
  readonly skips: Skips;
  readonly limits: CopyLimits;
  /** How many entries the guest has told of. */
  entries: number;
  /** How many of them were not written, as something else has their place. */
  obstacles: number;
}

type Kind = 'file' | 'directory' | 'link' | 'other';

/** No more of an entry is kept while its directory is copied. */
interface Child {
  readonly name: string;
  readonly kind: Kind;
  readonly mode: number;
}

export async function copyToHost(
  guest: Guest,
  from: string,
  to: string,
  skips: Skips,
  limits: CopyLimits = LIMITS,
): Promise<void> {
  const { type, mode, path } = await statFile(guest, from);
  const place = await placeOnHost(to, from);
  const walk: Walk = { guest, skips, limits, entries: 0, obstacles: 0 };
  if (type === FileEntry_Type.DIRECTORY) {
    await mkdir(dirname(place.path), { recursive: true }).catch((cause: unknown) => {
      throw cannotWrite(dirname(place.path), cause);
    });
    await fetchDirectory(walk, path, place, mode, 1);
  } else {
    await fetchFile(walk, path, place, mode);
  }
  if (walk.obstacles > 0) {
    throw new WrennError('invalid_path', `Not all of it could be written to ${to}.`, {
      hint: 'What is there and of another kind is left as it is; a symbolic link is followed only where it is named itself.',
    });
  }
}

/** As cp does: into a directory that is there, else under the name that was given. */
async function placeOnHost(path: string, source: string): Promise<Place> {
  const isDirectory = await stat(path).then(
    (found) => found.isDirectory(),
    () => path.endsWith('/'),
  );
  const name = posix.basename(source);
  // These have no name that could be one below: what is in them goes into the directory itself.
  if (!isDirectory || ['', '.', '..'].includes(name)) return { path, isNamed: true };
  return { path: join(path, name), isNamed: false };
}

async function fetchDirectory(
  walk: Walk,
  path: string,
  place: Place,
  mode: number,
  level: number,
): Promise<void> {
  const { maxLevels } = walk.limits;
  if (level > maxLevels) throw tooMuch(`directories more than ${maxLevels} levels deep`);
  if (!(await makeDirectory(place, mode))) return leaveObstacle(walk, place);
  for (const child of await childrenOf(walk, path)) {
    const from = posix.join(path, child.name);
    const to: Place = { path: join(place.path, child.name), isNamed: false };
    if (child.kind === 'link') walk.skips.add(from, A_LINK);
    else if (child.kind === 'other') walk.skips.add(from, NO_FILE);
    else if (child.kind === 'directory') await fetchDirectory(walk, from, to, child.mode, level + 1);
    else await fetchFile(walk, from, to, child.mode);
  }
}

function leaveObstacle(walk: Walk, { path }: Place): void {
  walk.obstacles++;
  walk.skips.add(path, IN_THE_WAY);
}

async function childrenOf(walk: Walk, path: string): Promise<Child[]> {
  const entries = await listDirectory(walk.guest, path);
  walk.entries += entries.length;
  const { maxEntries } = walk.limits;
  if (walk.entries > maxEntries) throw tooMuch(`more than ${maxEntries} files and directories`);
  return entries.map((entry) => ({ name: safeName(entry.name), kind: kindOf(entry), mode: entry.mode }));
}

/** Of a link the type is that of what it leads to. */
function kindOf({ type, symlinkTarget }: FileEntry): Kind {
  if (symlinkTarget !== '' || type === FileEntry_Type.SYMLINK) return 'link';
  if (type === FileEntry_Type.DIRECTORY) return 'directory';
  return type === FileEntry_Type.FILE ? 'file' : 'other';
}

/** A guest chooses the names of its files; one must not lead out of the directory that is written to. */
function safeName(name: string): string {
  const isOne = name !== '' && name !== '.' && name !== '..' && !/[/\0]/.test(name);
  if (isOne && Buffer.byteLength(name) <= NAME_MAX_BYTES) return name;
  const told = JSON.stringify(name.slice(0, NAME_MAX_BYTES));
  throw new WrennError('invalid_path', `The sandbox has a file named ${told}, which is not copied.`);
}

/**
 * Only a new one has the mode that it is given, as far as the umask lets it; its owner may always write into it. False
 * where something else has its place.
 */
async function makeDirectory({ path, isNamed }: Place, mode: number): Promise<boolean> {
  try {
    await mkdir(path, { mode: (mode & PERMISSIONS) | constants.S_IRWXU });
    return true;
  } catch (error) {
    if (!hasErrno(error, 'EEXIST')) throw cannotWrite(path, error);
  }
  const found = await (isNamed ? stat(path) : lstat(path)).catch((cause: unknown) => {
    throw cannotWrite(path, cause);
  });
  return found.isDirectory();
}

async function fetchFile(walk: Walk, path: string, place: Place, mode: number): Promise<void> {
  const handle = await openForWriting(place, mode);
  if (handle === undefined) return leaveObstacle(walk, place);
  await pipeline(readFile(walk.guest, path), handle.createWriteStream()).catch((error: unknown) => {
    throw isDiskFull(error) ? cannotWrite(place.path, error) : error;
  });
}

/**
 * Only a new one has the mode that it is given, from its first byte on, as far as the umask lets it: what is there keeps
 * its own. Undefined where something else than a file has its place.
 */
async function openForWriting({ path, isNamed }: Place, mode: number): Promise<FileHandle | undefined> {
  const flags = isNamed ? WRITE : WRITE | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const handle = await open(path, flags, mode & PERMISSIONS).catch((cause: unknown) => {
    if (!isNamed && hasErrno(cause, 'ELOOP', 'ENXIO', 'EISDIR')) return undefined;
    throw cannotWrite(path, cause);
  });
  if (handle === undefined || isNamed || (await handle.stat()).isFile()) return handle;
  await handle.close();
  return undefined;
}

function tooMuch(what: string): WrennError {
  return new WrennError('invalid_path', `The sandbox has ${what} there; the rest was not copied.`, {
    hint: 'Copy parts of it.',
  });
}

function cannotWrite(path: string, cause: unknown): WrennError {
  if (isDiskFull(cause)) {
    return new WrennError('disk_full', `The disk is full: ${path} cannot be written.`, { cause });
  }
  if (hasErrno(cause, 'ENOENT', 'ENOTDIR', 'EISDIR', 'ENAMETOOLONG', 'ELOOP')) {
    return new WrennError('invalid_path', `${path} is no place for it on this host.`, { cause });
  }
  return new WrennError('file_access_denied', `${path} cannot be written.`, { cause });
}
