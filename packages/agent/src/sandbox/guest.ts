/** Files in a running sandbox. Every use holds a lease, which ends with the sandbox. */
import { WrennError } from '@wrenn/protocol';
import { type EntryInfo, FileType } from '@wrenn/protocol/filesystem';
import type { EnvdClient } from '../envd-client/client.ts';
import { joinSignals } from '../signals/signals.ts';
import { collect, type ExecTimeouts, exec } from './exec.ts';

/** The right to talk to a sandbox's guest, for one command or one transfer. */
export interface GuestLease {
  readonly envd: EnvdClient;
  /** Aborts when the sandbox ends, with the error to tell. */
  readonly signal: AbortSignal;
  /** Whether the guest is frozen, or was within the last so many milliseconds. */
  mayBeSilent(forMs: number): boolean;
  /** Idempotent. */
  release(): void;
}

export interface FileEntry {
  readonly name: string;
  readonly path: string;
  readonly type: 'file' | 'directory' | 'symlink' | 'other';
  readonly sizeBytes: bigint;
  readonly mode: number;
  readonly owner: string;
  readonly group: string;
  readonly modifiedAtMs: number | undefined;
  readonly symlinkTarget: string | undefined;
}

export interface FileTarget {
  readonly path: string;
  /** Undefined means the template's default user. */
  readonly user: string | undefined;
}

export interface GuestFiles {
  read(target: FileTarget, signal: AbortSignal): AsyncGenerator<Uint8Array>;
  write(
    target: FileTarget,
    mode: number | undefined,
    source: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<FileEntry>;
  stat(target: FileTarget, signal: AbortSignal): Promise<FileEntry>;
  list(target: FileTarget, depth: number, signal: AbortSignal): Promise<FileEntry[]>;
  makeDirectory(target: FileTarget, signal: AbortSignal): Promise<FileEntry>;
  remove(target: FileTarget, signal: AbortSignal): Promise<void>;
}

const PATH_MAX_BYTES = 4096;
const MODE_MAX = 0o7777;
const DEPTH_MAX = 128;
/** Of the years 1 to 9999. */
const TIME_MIN_MS = Date.parse('0001-01-01T00:00:00Z');
const TIME_MAX_MS = Date.parse('9999-12-31T23:59:59.999Z');

export function createGuestFiles(use: () => GuestLease, timeouts: ExecTimeouts): GuestFiles {
  const withLease = async <T>(
    target: FileTarget,
    signal: AbortSignal,
    work: (envd: EnvdClient, signal: AbortSignal, lease: GuestLease) => Promise<T>,
  ): Promise<T> => {
    checkTarget(target);
    const lease = use();
    const either = joinSignals(signal, lease.signal);
    try {
      return await work(lease.envd, either.signal, lease);
    } finally {
      either.release();
      lease.release();
    }
  };

  async function* read(target: FileTarget, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    checkTarget(target);
    const lease = use();
    const either = joinSignals(signal, lease.signal);
    const release = (): void => {
      signal.removeEventListener('abort', release);
      either.release();
      lease.release();
    };
    // A reader that goes away while we wait to hand it a chunk never comes back to release it.
    signal.addEventListener('abort', release, { once: true });
    try {
      yield* await lease.envd.readFile(target.path, target.user, either.signal);
    } finally {
      release();
    }
  }

  return {
    read,
    write: async (target, mode, source, signal) => {
      if (mode !== undefined && (!Number.isInteger(mode) || mode < 0 || mode > MODE_MAX)) {
        throw new WrennError('invalid_argument', 'A file mode has the bits 07777 only.', { field: 'mode' });
      }
      return withLease(target, signal, async (envd, either, lease) => {
        const { user } = target;
        const path = await envd.writeFile(target.path, user, source, either);
        if (mode !== undefined) {
          // envd has no request for it, so a command does it, as the same user.
          const command = ['chmod', mode.toString(8), '--', path];
          const { exit, stderr } = await collect(
            exec(
              { ...lease, release: () => {} },
              { command, user, envs: {}, stdin: false, timeoutMs: timeouts.guestRequestMs },
              timeouts,
              either,
            ),
          );
          if (exit.exitCode !== 0) {
            throw new WrennError('file_access_denied', `The mode could not be set: ${stderr.slice(0, 200)}`);
          }
        }
        return toEntry(await envd.stat(path, user, either));
      });
    },
    stat: (target, signal) =>
      withLease(target, signal, async (envd, either) =>
        toEntry(await envd.stat(target.path, target.user, either)),
      ),
    list: (target, depth, signal) =>
      withLease(target, signal, async (envd, either) => {
        if (depth > DEPTH_MAX) {
          throw new WrennError('invalid_argument', `A listing is at most ${DEPTH_MAX} levels deep.`, {
            field: 'depth',
          });
        }
        const entries = await envd.list(target.path, Math.max(1, depth), target.user, either);
        return entries.map(toEntry);
      }),
    makeDirectory: (target, signal) =>
      withLease(target, signal, async (envd, either) =>
        toEntry(await envd.makeDirectory(target.path, target.user, either)),
      ),
    remove: (target, signal) =>
      withLease(target, signal, (envd, either) => envd.remove(target.path, target.user, either)),
  };
}

function checkTarget({ path, user }: FileTarget): void {
  if (path.includes('\0')) {
    throw new WrennError('invalid_path', 'The path has a NUL byte.', { field: 'path' });
  }
  if (path === '' || Buffer.byteLength(path) > PATH_MAX_BYTES) {
    throw new WrennError('invalid_path', `A path has 1 to ${PATH_MAX_BYTES} bytes.`, { field: 'path' });
  }
  checkUser(user);
}

/** A name that fits into the header that carries it. */
export function checkUser(user: string | undefined): void {
  if (user === undefined || /^[^\s:\p{C}]{1,64}$/u.test(user)) return;
  throw new WrennError('invalid_argument', "That is no user's name.", { field: 'user' });
}

function toEntry(entry: EntryInfo): FileEntry {
  return {
    name: entry.name,
    path: entry.path,
    type: typeOf(entry.type),
    sizeBytes: entry.size < 0n ? 0n : entry.size,
    mode: entry.mode,
    owner: entry.owner,
    group: entry.group,
    modifiedAtMs: toTimeMs(entry.modifiedTime),
    symlinkTarget: entry.symlinkTarget,
  };
}

/** Undefined for none, and for one that no Timestamp can tell: the guest may say anything. */
function toTimeMs(time: EntryInfo['modifiedTime']): number | undefined {
  if (time === undefined) return undefined;
  const ms = Number(time.seconds) * 1000 + Math.floor(time.nanos / 1e6);
  return ms >= TIME_MIN_MS && ms <= TIME_MAX_MS ? ms : undefined;
}

function typeOf(type: FileType): FileEntry['type'] {
  switch (type) {
    case FileType.FILE:
      return 'file';
    case FileType.DIRECTORY:
      return 'directory';
    case FileType.SYMLINK:
      return 'symlink';
    default:
      return 'other';
  }
}
