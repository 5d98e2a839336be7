/**
 * What the agent must know of a sandbox after it was killed: sandboxes/<id>/sandbox.json, written durably
 * before each step that it announces. Holds the guest's access token, so its owner alone may read it.
 */
import { lchown, lstat, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hasErrno, hashSparse, prepareFile, syncDirectory, syncFile, writeFileDurably } from '@wrenn/host';
import { parseSandboxId, WrennError } from '@wrenn/protocol';
import { type Hibernation, type JournalRecord, type ParsedRecord, parseRecord } from './journal-record.ts';

/** The environment and metadata that may be configured at most, each byte of them written as six. */
const FILE_MAX_BYTES = 16 * 1024 * 1024;
const FILE_NAME = 'sandbox.json';
const HIBERNATION = 'hibernation-';

export interface CorruptJournal {
  readonly id: string;
  readonly problem: string;
  /** The VMM's uid, as its layer shows it; undefined where there is none, and so no VMM. */
  readonly uid: number | undefined;
}

export interface JournalsRead {
  readonly records: JournalRecord[];
  /** By id, what of the record this agent does not know: one that knows more has written it. */
  readonly unknownKeys: ReadonlyMap<string, readonly string[]>;
  readonly corrupt: CorruptJournal[];
}

/**
 * What a record that was written is sure to survive. With `agent` the one before may be there after a power cut, as whole as
 * this one: for what is said of processes, which no power cut leaves.
 */
export type Outlives = 'agent' | 'host';

export interface SandboxFiles {
  readonly dir: string;
  readonly layer: string;
  /** The VMM's own: sockets and logs. */
  readonly runDir: string;
  /** What it hibernates to, and maps afterwards; another directory each time. */
  hibernation(number: number): HibernationFiles;
}

export interface HibernationFiles {
  readonly dir: string;
  readonly statePath: string;
  readonly memoryPath: string;
}

export interface Journal {
  files(id: string): SandboxFiles;
  /** Makes the sandbox's directories: root's own, with the VMM's run directory inside. */
  makeDirectories(id: string, uid: number): Promise<void>;
  /** Makes their names survive a power cut. */
  syncNames(): Promise<void>;
  /** Gives the sandbox's files to another user: it got another slot. */
  giveTo(id: string, uid: number): Promise<void>;
  /** The directory of a hibernation, empty, whatever an earlier attempt left there. */
  makeHibernation(id: string, number: number): Promise<HibernationFiles>;
  /** Makes the layer survive a power cut. */
  syncLayer(id: string): Promise<void>;
  /** The same for a hibernation. Returns what is in it. */
  sealHibernation(
    id: string,
    number: number,
    signal: AbortSignal,
  ): Promise<Pick<Hibernation, 'memorySha256' | 'stateSha256'>>;
  /** Removes every hibernation but these. */
  removeHibernations(id: string, except: readonly number[]): Promise<void>;
  write(record: JournalRecord, outlives?: Outlives): Promise<void>;
  /** The same in two steps, of which the last is quick: what it returns makes the record the journal's, for `agent`. */
  prepare(record: JournalRecord): Promise<() => Promise<void>>;
  /** Removes all files of the sandbox. Idempotent. */
  remove(id: string): Promise<void>;
  /**
   * To be called before anything is written: what an earlier agent was writing when it was killed is removed. Throws where
   * a journal cannot be read, or is of another version: nothing is known of that sandbox, not even what it holds.
   */
  readAll(): Promise<JournalsRead>;
  /** Keeps what cannot be read for people to look at, so that the rest can be removed. */
  setAside(id: string): Promise<void>;
}

export function createJournal(sandboxesDir: string, corruptDir: string): Journal {
  const files = (id: string): SandboxFiles => {
    const dir = join(sandboxesDir, parseSandboxId(id));
    return {
      dir,
      layer: join(dir, 'layer.ext4'),
      runDir: join(dir, 'run'),
      hibernation: (number) => {
        const own = join(dir, `${HIBERNATION}${number}`);
        return { dir: own, statePath: join(own, 'state'), memoryPath: join(own, 'memory') };
      },
    };
  };
  const fileOf = (id: string): string => join(files(id).dir, FILE_NAME);

  return {
    files,
    makeDirectories: async (id, uid) => {
      const { dir, runDir } = files(id);
      await mkdir(dir, { mode: 0o700 });
      await mkdir(runDir, { mode: 0o700 });
      await lchown(runDir, uid, uid);
    },
    syncNames: () => syncDirectory(sandboxesDir),
    giveTo: async (id, uid) => {
      const { layer, runDir } = files(id);
      await lchown(layer, uid, uid);
      await lchown(runDir, uid, uid);
    },
    makeHibernation: async (id, number) => {
      const made = files(id).hibernation(number);
      await rm(made.dir, { recursive: true, force: true });
      await mkdir(made.dir, { mode: 0o700 });
      return made;
    },
    syncLayer: (id) => syncFile(files(id).layer),
    sealHibernation: async (id, number, signal) => {
      const { dir, hibernation } = files(id);
      const { statePath, memoryPath, dir: own } = hibernation(number);
      // What is hashed meanwhile is still in the page cache.
      const [memorySha256, stateSha256] = await Promise.all([
        hashSparse(memoryPath, { signal }),
        hashSparse(statePath, { signal }),
        syncFile(statePath),
        syncFile(memoryPath),
      ]);
      await syncDirectory(own);
      await syncDirectory(dir);
      return { memorySha256, stateSha256 };
    },
    removeHibernations: async (id, except) => {
      const { dir } = files(id);
      const kept = new Set(except.map((number) => `${HIBERNATION}${number}`));
      for (const name of await namesIn(dir)) {
        if (!name.startsWith(HIBERNATION) || kept.has(name)) continue;
        await rm(join(dir, name), { recursive: true, force: true });
      }
    },
    write: (record, outlives = 'host') =>
      writeFileDurably(fileOf(record.id), textOf(record), { mode: 0o600, mayBeOld: outlives === 'agent' }),
    prepare: async (record) => {
      // Where it is not made the journal's, it goes with the directory, or with the next start of an agent.
      const { commit } = await prepareFile(fileOf(record.id), textOf(record), { mode: 0o600 });
      return () => commit({ mayBeOld: true });
    },
    remove: async (id) => {
      const { dir } = files(id);
      // The journal goes last: whatever is still there stays named until it is gone.
      for (const name of await namesIn(dir)) {
        if (name !== FILE_NAME) await rm(join(dir, name), { recursive: true, force: true });
      }
      await rm(dir, { recursive: true, force: true });
      await syncDirectory(sandboxesDir);
    },
    readAll: async () => {
      const records: JournalRecord[] = [];
      const unknownKeys = new Map<string, readonly string[]>();
      const corrupt: CorruptJournal[] = [];
      for (const id of await namesIn(sandboxesDir)) {
        if (!isSandboxId(id)) continue;
        try {
          await removeUnfinished(files(id).dir);
          const { record, unknown } = await readRecord(fileOf(id), id);
          records.push(record);
          if (unknown.length > 0) unknownKeys.set(id, unknown);
        } catch (error) {
          if (!isCorrupt(error)) throw unreadable(id, files(id).dir, error);
          corrupt.push({ id, problem: String(error), uid: await ownerOf(files(id).layer) });
        }
      }
      return { records, unknownKeys, corrupt };
    },
    setAside: async (id) => {
      await mkdir(corruptDir, { recursive: true, mode: 0o700 });
      try {
        await rename(fileOf(id), join(corruptDir, `${id}.json`));
      } catch (error) {
        if (!hasErrno(error, 'ENOENT')) throw error;
      }
    },
  };
}

function textOf(record: JournalRecord): string {
  return `${JSON.stringify(record)}\n`;
}

/** It was read, and is no journal; or there is none, as its agent died before it could write one. */
function isCorrupt(error: unknown): boolean {
  return hasErrno(error, 'ENOENT') || (error instanceof WrennError && error.code === 'journal_corrupt');
}

function unreadable(id: string, dir: string, cause: unknown): WrennError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new WrennError('internal', `The journal of sandbox ${id} cannot be read: ${why}`, {
    hint: `Nothing was touched. Start the agent that wrote it, mend the disk, or move ${dir} away.`,
    cause,
  });
}

async function readRecord(path: string, id: string): Promise<ParsedRecord> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    if (size > FILE_MAX_BYTES) {
      throw new WrennError('journal_corrupt', `The journal of sandbox ${id} has ${size} bytes.`);
    }
    return parseRecord(await file.readFile('utf8'), id);
  } finally {
    await file.close();
  }
}

/** What writeFileDurably has beside the file until it is whole. */
async function removeUnfinished(dir: string): Promise<void> {
  for (const name of await namesIn(dir)) {
    if (name.startsWith(`${FILE_NAME}.`)) await rm(join(dir, name), { force: true });
  }
}

async function namesIn(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return [];
    throw error;
  }
}

async function ownerOf(path: string): Promise<number | undefined> {
  try {
    const stats = await lstat(path);
    return stats.isFile() && stats.uid !== 0 ? stats.uid : undefined;
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

function isSandboxId(name: string): boolean {
  try {
    parseSandboxId(name);
    return true;
  } catch {
    return false;
  }
}
