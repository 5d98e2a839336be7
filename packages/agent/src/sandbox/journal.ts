/**
 * What the agent must know of a sandbox after it was killed: sandboxes/<id>/sandbox.json, written durably
 * before each step that it announces. Holds the guest's access token, so its owner alone may read it.
 */
import { lchown, lstat, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hasErrno, hashSparse, prepareFile, syncDirectory, syncFile, writeFileDurably } from '@wrenn/host';
import { parseSandboxId, WrennError } from '@wrenn/protocol';
import { z } from 'zod';

/** The environment and metadata that may be configured at most, each byte of them written as six. */
const FILE_MAX_BYTES = 16 * 1024 * 1024;
const FILE_NAME = 'sandbox.json';
const HIBERNATION = 'hibernation-';

const whole = z.int().min(0);
const path = z.string().min(1).max(4096);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const processSchema = z.strictObject({ pid: z.int().min(1), startTime: z.string().regex(/^\d{1,20}$/) });
const handleSchema = z.strictObject({
  driver: z.enum(['qemu', 'firecracker']),
  ...processSchema.shape,
  wrappers: z.array(processSchema.readonly()).max(16).readonly(),
  runDir: z.string().min(1).max(108),
});

/** Absent in journals of agents that knew no limits. */
const rateLimitsSchema = z
  .strictObject({
    networkReceiveBytesPerSecond: whole.optional(),
    networkTransmitBytesPerSecond: whole.optional(),
    diskBytesPerSecond: whole.optional(),
    diskOperationsPerSecond: whole.optional(),
  })
  .default({});

/** What it may reach; absent in journals of agents that knew no such rules. */
const egressSchema = z
  .strictObject({
    allowInternetAccess: z.boolean(),
    allowOut: z.array(z.string().max(256)).max(1024),
    denyOut: z.array(z.string().max(64)).max(1024),
  })
  .default({ allowInternetAccess: true, allowOut: [], denyOut: [] });

/**
 * Another one where an agent that does not know it would misread the rest. A key more is no reason: what has one that an
 * agent does not know is kept as it is.
 */
const VERSION = 1;

export const journalSchema = z.strictObject({
  version: z.literal(VERSION),
  id: z.string().regex(/^[a-z0-9]{20}$/),
  /** `own`: the agent's, and nobody's to ask for; nothing of it outlives the agent. */
  purpose: z.enum(['user', 'own']).default('user'),
  /** The host's boot during which the rest is true. */
  bootId: z.string().min(1).max(64),
  state: z.enum(['creating', 'running', 'paused', 'hibernating', 'hibernated', 'resuming', 'destroying']),
  template: z.string().min(1).max(128),
  buildId: z.string().max(128),
  vcpus: whole,
  memoryMib: whole,
  diskMib: whole,
  rateLimits: rateLimitsSchema,
  envs: z.record(z.string(), z.string()),
  metadata: z.record(z.string(), z.string()),
  createdAtMs: whole,
  /** When it is to be destroyed; null for never. */
  endsAtMs: whole.nullable(),
  /** What happens then. */
  onTimeout: z.enum(['destroy', 'hibernate']).default('destroy'),
  egress: egressSchema,
  slotIndex: whole,
  uid: whole,
  accessToken: z.string().min(1).max(256),
  /** What its drives and its boot are made of; null in journals of agents that did not write it down. */
  images: z
    .strictObject({ rootfsPath: path, guestImagePath: path, kernelPath: path, initrdPath: path })
    .nullable()
    .default(null),
  /** The snapshot that it was created from; null for one that booted. */
  snapshotId: z.string().max(64).nullable().default(null),
  /** How often it has hibernated: its files are those of the last time. */
  hibernations: whole.default(0),
  /** What they are; null if it has never hibernated, and in journals of agents that did not write it down. */
  hibernation: z
    .strictObject({
      /** The hibernation whose memory is whole, and maybe this one's; 0 where that is its snapshot's. */
      base: whole,
      /** Of the base's memory, unless that is this one's. */
      baseSha256: sha256.nullable(),
      memorySha256: sha256,
      stateSha256: sha256,
    })
    .nullable()
    .default(null),
  /** What runs it, or can restore its files; null until there is a VMM, and in journals of agents that did not write it. */
  vmm: z
    .strictObject({ driver: z.enum(['qemu', 'firecracker']), version: z.string().max(128) })
    .nullable()
    .default(null),
  /** Null until there is a VMM, and while it hibernates. */
  handle: handleSchema.nullable(),
  phases: z.array(z.strictObject({ name: z.string().max(64), durationMs: z.number().min(0) })).max(64),
});

export type JournalRecord = z.output<typeof journalSchema>;

export type Hibernation = NonNullable<JournalRecord['hibernation']>;

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

export interface ParsedRecord {
  readonly record: JournalRecord;
  /** Keys that are not in it, because this agent does not know them. */
  readonly unknown: readonly string[];
}

/** Throws `journal_corrupt`, and another error for another version. */
export function parseRecord(text: string, id: string): ParsedRecord {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new WrennError('journal_corrupt', `The journal of sandbox ${id} is not JSON.`, { cause });
  }
  assertVersion(value, id);
  const whole = journalSchema.safeParse(value);
  const unknown = takeOutUnknown(value, whole.error?.issues ?? []);
  const parsed = unknown.length === 0 ? whole : journalSchema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const what = `${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`;
    throw new WrennError('journal_corrupt', `The journal of sandbox ${id} is not valid (${what}).`);
  }
  if (parsed.data.id === id) return { record: parsed.data, unknown };
  throw new WrennError('journal_corrupt', `The journal of sandbox ${id} is that of ${parsed.data.id}.`);
}

/** A higher one is of a form that this agent would misread. */
function assertVersion(value: unknown, id: string): void {
  const { data } = z.looseObject({ version: z.int().min(VERSION + 1) }).safeParse(value);
  if (data === undefined) return;
  throw new WrennError('internal', `The journal of sandbox ${id} is of version ${data.version}.`);
}

/** Of the value itself, at any depth. Returns their paths. */
function takeOutUnknown(value: unknown, issues: readonly z.core.$ZodIssue[]): string[] {
  return issues.flatMap((issue) => {
    if (issue.code !== 'unrecognized_keys') return [];
    const owner = issue.path.reduce<unknown>(
      (object, key) => (isObject(object) ? object[key] : undefined),
      value,
    );
    if (isObject(owner)) for (const key of issue.keys) delete owner[key];
    return issue.keys.map((key) => [...issue.path, key].join('.'));
  });
}

function isObject(value: unknown): value is Record<PropertyKey, unknown> {
  return typeof value === 'object' && value !== null;
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
