/** From what the kernel says of a path to the EntryInfo that SDKs read. Pure. */
import { basename } from 'node:path';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { type EntryInfo, FileType } from '@wrenn/protocol/filesystem';

const TYPE_MASK = 0o170000;
const PERMISSION_MASK = 0o777;

const FILE_TYPE_BITS = {
  socket: 0o140000,
  symlink: 0o120000,
  regular: 0o100000,
  blockDevice: 0o060000,
  directory: 0o040000,
  characterDevice: 0o020000,
  fifo: 0o010000,
} as const;

const SET_UID = 0o4000;
const SET_GID = 0o2000;
const STICKY = 0o1000;

/** The parts of lstat(2) that an entry is made of. */
export interface EntryStats {
  readonly mode: number;
  readonly sizeBytes: bigint;
  readonly modifiedNs: bigint;
}

export interface EntryFacts {
  readonly path: string;
  /** Of the path itself: a symbolic link is not followed. */
  readonly stats: EntryStats;
  readonly owner: string;
  readonly group: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly symlink?: SymlinkFacts | undefined;
}

export interface SymlinkFacts {
  /** Fully resolved; for a link that leads nowhere, its text as it is. */
  readonly target: string;
  /** Undefined for a link that leads nowhere. */
  readonly targetMode: number | undefined;
}

export function isType(mode: number, type: keyof typeof FILE_TYPE_BITS): boolean {
  return (mode & TYPE_MASK) === FILE_TYPE_BITS[type];
}

/** Sockets, FIFOs and devices have no type of their own in the protocol. */
function fileType(mode: number): FileType {
  if (isType(mode, 'regular')) return FileType.FILE;
  if (isType(mode, 'directory')) return FileType.DIRECTORY;
  if (isType(mode, 'symlink')) return FileType.SYMLINK;
  return FileType.UNSPECIFIED;
}

const TRIADS = ['---', '--x', '-w-', '-wx', 'r--', 'r-x', 'rw-', 'rwx'] as const;

/**
 * As Go's FileMode prints itself, which is what clients of the protocol have always been sent: the
 * letters of all that applies, or a dash, then the nine permission bits. So a sticky directory is
 * `dtrwxrwxrwx` and a symbolic link `Lrwxrwxrwx`, unlike in ls(1).
 */
export function permissionString(mode: number): string {
  const isCharacterDevice = isType(mode, 'characterDevice');
  let letters = '';
  if (isType(mode, 'directory')) letters += 'd';
  if (isType(mode, 'symlink')) letters += 'L';
  if (isType(mode, 'blockDevice') || isCharacterDevice) letters += 'D';
  if (isType(mode, 'fifo')) letters += 'p';
  if (isType(mode, 'socket')) letters += 'S';
  if (mode & SET_UID) letters += 'u';
  if (mode & SET_GID) letters += 'g';
  if (isCharacterDevice) letters += 'c';
  if (mode & STICKY) letters += 't';
  return `${letters || '-'}${TRIADS[(mode >> 6) & 7]}${TRIADS[(mode >> 3) & 7]}${TRIADS[mode & 7]}`;
}

/**
 * Type and mode are those of what a link leads to; size, owner, permissions and time are the link's.
 * A link that leads nowhere keeps the type SYMLINK and mode 0, so that clients can see it and remove it.
 *
 * Written out and not by create(), which takes longer than all the rest of a listing without a JIT.
 */
export function toEntryInfo(facts: EntryFacts): EntryInfo {
  const { stats, symlink } = facts;
  const mode = symlink === undefined ? stats.mode : symlink.targetMode;
  return {
    $typeName: 'filesystem.EntryInfo',
    name: basename(facts.path) || '/',
    path: facts.path,
    type: mode === undefined ? FileType.SYMLINK : fileType(mode),
    mode: (mode ?? 0) & PERMISSION_MASK,
    permissions: permissionString(stats.mode),
    size: stats.sizeBytes,
    owner: facts.owner,
    group: facts.group,
    modifiedTime: timestamp(stats.modifiedNs),
    metadata: { ...facts.metadata },
    ...(symlink === undefined ? {} : { symlinkTarget: symlink.target }),
  };
}

const SECOND_NS = 1_000_000_000n;
/** A Timestamp has the years 1 to 9999; a file may have any. Nearest to what it has is better than no answer. */
const TIMESTAMP_MIN_S = -62_135_596_800n;
const TIMESTAMP_MAX_S = 253_402_300_799n;

/** The nanoseconds of a Timestamp count forward, also before 1970. */
function timestamp(ns: bigint): Timestamp {
  const nanos = ((ns % SECOND_NS) + SECOND_NS) % SECOND_NS;
  const seconds = (ns - nanos) / SECOND_NS;
  if (seconds < TIMESTAMP_MIN_S) return toTimestamp(TIMESTAMP_MIN_S, 0n);
  if (seconds > TIMESTAMP_MAX_S) return toTimestamp(TIMESTAMP_MAX_S, SECOND_NS - 1n);
  return toTimestamp(seconds, nanos);
}

function toTimestamp(seconds: bigint, nanos: bigint): Timestamp {
  return { $typeName: 'google.protobuf.Timestamp', seconds, nanos: Number(nanos) };
}
