/** Who watches what: the streams, and the watchers that clients poll. Both are bounded in number. */
import { realpath, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import { type EntryInfo, EventType } from '@wrenn/protocol/filesystem';
import type { FileSystemStats } from '../sys/libc.ts';
import { randomHex } from '../sys/random.ts';
import { type EntrySources, readEntry } from './entry.ts';
import { createEventQueue, type EventQueue } from './event-queue.ts';
import { isMissing, rpcError } from './fs-errors.ts';
import { networkFileSystem } from './network-mounts.ts';
import { type DirectoryWatch, type WatchDependencies, watchDirectory } from './watch.ts';

export interface WatchOptions {
  readonly path: string;
  readonly recursive: boolean;
  readonly includeEntry: boolean;
  readonly allowNetworkMounts: boolean;
}

export interface ToldEvent {
  readonly name: string;
  readonly type: EventType;
  /** Read when the event came. Undefined where none was asked for, or it has gone by now. */
  readonly entry: Promise<EntryInfo | undefined> | undefined;
}

export interface OpenWatch {
  readonly events: EventQueue<ToldEvent>;
  /** Idempotent. */
  close(): void;
}

export interface Watchers {
  open(options: WatchOptions): Promise<OpenWatch>;
  /** Kept until it is removed, or nobody has fetched from it for an hour: its client is gone. */
  create(options: WatchOptions): Promise<string>;
  /** What has happened since the last call, up to this call. */
  fetch(id: string): Promise<ToldEvent[]>;
  remove(id: string): void;
}

export interface WatcherDependencies extends WatchDependencies {
  readonly entries: EntrySources;
  statfs(path: string): FileSystemStats;
}

const WATCHES_MAX = 256;
const WAITING_EVENTS_MAX = 8192;
const POLLED_IDLE_MS = 60 * 60_000;

/** What has been removed or renamed is told without an entry: something else may have its name by now. */
const WITH_ENTRY: ReadonlySet<EventType> = new Set([EventType.CREATE, EventType.WRITE, EventType.CHMOD]);

interface Polled {
  readonly watch: OpenWatch;
  readonly idle: ReturnType<typeof setTimeout>;
}

export function createWatchers(dependencies: WatcherDependencies): Watchers {
  const polled = new Map<string, Polled>();
  let openWatches = 0;

  async function open(options: WatchOptions): Promise<OpenWatch> {
    if (openWatches >= WATCHES_MAX) {
      throw new ConnectError(
        `${WATCHES_MAX} watches are open already: stop or remove one`,
        Code.ResourceExhausted,
      );
    }
    openWatches++;
    try {
      return await start(options, () => openWatches--);
    } catch (error) {
      openWatches--;
      throw rpcError(error, `cannot watch ${options.path}`);
    }
  }

  async function start(options: WatchOptions, onClose: () => void): Promise<OpenWatch> {
    const root = await watchableRoot(options, dependencies);
    const events = createEventQueue<ToldEvent>({ maxItems: WAITING_EVENTS_MAX });
    const watch: DirectoryWatch = await watchDirectory(
      {
        root,
        recursive: options.recursive,
        onEvent: (name, type) => events.push({ name, type, entry: entryOf(options, name, type) }),
        onFailure: (error) => events.fail(error),
      },
      dependencies,
    );
    let closed = false;
    return {
      events,
      close: () => {
        if (closed) return;
        closed = true;
        events.close();
        watch.close();
        onClose();
      },
    };
  }

  function entryOf(options: WatchOptions, name: string, type: EventType): ToldEvent['entry'] {
    if (!options.includeEntry || !WITH_ENTRY.has(type)) return undefined;
    return readEntry(join(options.path, name), dependencies.entries).catch(() => undefined);
  }

  function find(id: string): Polled {
    const found = polled.get(id);
    if (found === undefined) throw new ConnectError(`watcher with id ${id} not found`, Code.NotFound);
    return found;
  }

  function remove(id: string): void {
    const { watch, idle } = find(id);
    polled.delete(id);
    clearTimeout(idle);
    watch.close();
  }

  return {
    open,
    create: async (options) => {
      const watch = await open(options);
      const id = `w${randomHex(16)}`;
      const idle = setTimeout(() => remove(id), POLLED_IDLE_MS);
      idle.unref();
      polled.set(id, { watch, idle });
      return id;
    },
    fetch: async (id) => {
      const { watch, idle } = find(id);
      idle.refresh();
      await dependencies.inotify.settled();
      return watch.events.drain();
    },
    remove,
  };
}

async function watchableRoot(
  { path, allowNetworkMounts }: WatchOptions,
  { statfs }: WatcherDependencies,
): Promise<string> {
  const root = await realpath(path).catch((error: unknown) => {
    if (!isMissing(error)) throw error;
    throw new ConnectError(`path ${path} not found`, Code.NotFound);
  });
  if (!(await stat(root)).isDirectory()) {
    throw new ConnectError(`path ${path} not a directory`, Code.InvalidArgument);
  }
  const network = allowNetworkMounts ? undefined : networkFileSystem(statfs(root).type);
  if (network !== undefined) {
    throw new ConnectError(
      `cannot watch path on network filesystem (${network}): ${path}`,
      Code.InvalidArgument,
    );
  }
  return root;
}
