/** ListDir: a walk in lexical order, each directory before what is in it, bounded in entries and bytes. */
import { join } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import { type EntryInfo, FileType } from '@wrenn/protocol/filesystem';
import { type DirentSource, readDirents } from './dirents.ts';
import { type EntrySources, readEntry, rememberOwners } from './entry.ts';
import { isOutOfReach } from './fs-errors.ts';

export interface ListLimits {
  readonly maxEntries: number;
  readonly maxBytes: number;
}

/** An answer is built in memory as a whole, several times over (message, JSON, bytes). */
const LIST_LIMITS: ListLimits = { maxEntries: 50_000, maxBytes: 16 * 1024 * 1024 };

/** How many lstat calls are under way at once. */
const BATCH_ENTRIES = 64;
/** What an entry takes beside its texts. */
const ENTRY_OVERHEAD_BYTES = 96;

export interface ListRequest {
  /** The directory as asked for: entries are told below this path. */
  readonly path: string;
  /** The same with links resolved: this is what is read. */
  readonly resolvedPath: string;
  readonly depth: number;
  readonly signal: AbortSignal;
}

/** Links are told, never followed, so there is no endless loop. What goes meanwhile is left out. */
export async function listDirectory(
  request: ListRequest,
  source: DirentSource,
  entrySources: EntrySources,
  limits: ListLimits = LIST_LIMITS,
): Promise<EntryInfo[]> {
  const entries: EntryInfo[] = [];
  const sources = rememberOwners(entrySources);
  let bytes = 0;

  function add(entry: EntryInfo): void {
    bytes += entrySizeBytes(entry);
    if (entries.length >= limits.maxEntries || bytes > limits.maxBytes) throw tooMuch(request.path, limits);
    entries.push(entry);
  }

  async function walk(told: string, real: string, level: number): Promise<void> {
    const names = await sortedNames(source, real, limits.maxEntries - entries.length, () =>
      tooMuch(request.path, limits),
    );
    for (let start = 0; start < names.length; start += BATCH_ENTRIES) {
      request.signal.throwIfAborted();
      const batch = names.slice(start, start + BATCH_ENTRIES);
      const found = await Promise.all(batch.map((name) => readIfThere(join(real, name), sources)));
      for (const [index, entry] of found.entries()) {
        const name = batch[index];
        if (entry === undefined || name === undefined) continue;
        entry.path = join(told, name);
        add(entry);
        const descend = entry.type === FileType.DIRECTORY && entry.symlinkTarget === undefined;
        if (descend && level < request.depth) await walk(entry.path, join(real, name), level + 1);
      }
    }
  }

  await walk(request.path, request.resolvedPath, 1);
  return entries;
}

async function sortedNames(
  source: DirentSource,
  path: string,
  most: number,
  refusal: () => Error,
): Promise<string[]> {
  const names: string[] = [];
  for (const dirents of readDirents(source, path)) {
    for (const { name } of dirents) names.push(name);
    if (names.length > most) throw refusal();
    // A huge directory must not keep others waiting.
    await new Promise((resolve) => setImmediate(resolve));
  }
  return names.sort();
}

async function readIfThere(path: string, sources: EntrySources): Promise<EntryInfo | undefined> {
  try {
    return await readEntry(path, sources);
  } catch (error) {
    if (isOutOfReach(error)) return undefined;
    throw error;
  }
}

function entrySizeBytes(entry: EntryInfo): number {
  let characters = entry.path.length + entry.name.length + (entry.symlinkTarget?.length ?? 0);
  for (const [key, value] of Object.entries(entry.metadata)) characters += key.length + value.length;
  return ENTRY_OVERHEAD_BYTES + characters;
}

function tooMuch(path: string, limits: ListLimits): ConnectError {
  return new ConnectError(
    `'${path}' has more than can be listed at once (${limits.maxEntries} entries or ${limits.maxBytes} bytes): ` +
      'list with a smaller depth, or run find in the sandbox',
    Code.ResourceExhausted,
  );
}
