/** The RPCs of filesystem.Filesystem. What each does is in the files beside this one. */
import { lstat, realpath, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from '@connectrpc/connect';
import {
  type Filesystem,
  FilesystemEventSchema,
  GetWatcherEventsResponseSchema,
  WatchDirResponseSchema,
} from '@wrenn/protocol/filesystem';
import { type EnvdContext, requestUser, resolvePath } from '../context.ts';
import { keepaliveMs } from '../process/follow.ts';
import type { User } from '../sys/users.ts';
import { ensureDirs } from './ensure-dirs.ts';
import { readEntry } from './entry.ts';
import { isMissing, rpcError } from './fs-errors.ts';
import { createInotify } from './inotify.ts';
import { listDirectory } from './list-dir.ts';
import { movePath } from './move.ts';
import { removeTree } from './remove.ts';
import { createWatchers, type ToldEvent, type WatchOptions } from './watchers.ts';
import { createXattrs } from './xattrs.ts';

export function createFilesystemService(context: EnvdContext): ServiceImpl<typeof Filesystem> {
  const { libc, users, settings } = context;
  const entries = { users, xattrs: createXattrs(libc) };
  const watchers = createWatchers({
    entries,
    dirents: libc,
    statfs: libc.statfs,
    inotify: createInotify({ ...libc, readChunks: (fd) => Bun.file(fd).stream() }),
  });

  const pathFor = (path: string, user: User) => resolvePath(path, user, settings.defaultWorkdir);
  const pathOf = (path: string, call: HandlerContext) =>
    pathFor(path, requestUser(context, call.requestHeader));
  const entryOf = (path: string) => readEntry(path, entries);
  const watchOptions = (request: WatchOptions, call: HandlerContext): WatchOptions => ({
    path: pathOf(request.path, call),
    recursive: request.recursive,
    includeEntry: request.includeEntry,
    allowNetworkMounts: request.allowNetworkMounts,
  });

  return {
    stat: (request, call) => {
      const path = pathOf(request.path, call);
      return attempt(`cannot stat ${path}`, async () => ({ entry: await found(path, () => entryOf(path)) }));
    },

    makeDir: (request, call) => {
      const user = requestUser(context, call.requestHeader);
      const path = pathFor(request.path, user);
      return attempt(`cannot create ${path}`, async () => {
        await refuseExisting(path);
        await ensureDirs(path, user);
        return { entry: await entryOf(path) };
      });
    },

    move: (request, call) => {
      const user = requestUser(context, call.requestHeader);
      const source = pathFor(request.source, user);
      const destination = pathFor(request.destination, user);
      return attempt(`cannot move ${source} to ${destination}`, async () => {
        // Looked at first: a move that fails must leave no new directories behind.
        await found(source, () => lstat(source));
        await ensureDirs(dirname(destination), user);
        await movePath(source, destination);
        return { entry: await entryOf(destination) };
      });
    },

    listDir: (request, call) => {
      const path = pathOf(request.path, call);
      return attempt(`cannot list ${path}`, async () => {
        const resolvedPath = await found(path, () => realpath(path));
        if (!(await stat(resolvedPath)).isDirectory()) {
          throw new ConnectError(`path is not a directory: ${path}`, Code.InvalidArgument);
        }
        const depth = request.depth || 1;
        const listing = { path, resolvedPath, depth, signal: call.signal };
        return { entries: await listDirectory(listing, libc, entries) };
      });
    },

    remove: (request, call) => {
      const path = pathOf(request.path, call);
      return attempt(`cannot remove ${path}`, async () => {
        await removeTree(path, call.signal);
        return {};
      });
    },

    watchDir: async function* (request, call) {
      const watch = await watchers.open(watchOptions(request, call));
      const leave = () => watch.close();
      call.signal.addEventListener('abort', leave, { once: true });
      try {
        yield create(WatchDirResponseSchema, { event: { case: 'start', value: {} } });
        const idleMs = keepaliveMs(call.requestHeader);
        for (;;) {
          call.signal.throwIfAborted();
          const next = await watch.events.next(idleMs);
          if (next.kind === 'closed') break;
          yield next.kind === 'idle'
            ? create(WatchDirResponseSchema, { event: { case: 'keepalive', value: {} } })
            : create(WatchDirResponseSchema, {
                event: { case: 'filesystem', value: await toMessage(next.item) },
              });
        }
        call.signal.throwIfAborted();
      } finally {
        call.signal.removeEventListener('abort', leave);
        leave();
      }
    },

    createWatcher: async (request, call) => ({
      watcherId: await watchers.create(watchOptions(request, call)),
    }),

    getWatcherEvents: async (request) => {
      const events = await watchers.fetch(request.watcherId);
      return create(GetWatcherEventsResponseSchema, { events: await Promise.all(events.map(toMessage)) });
    },

    removeWatcher: (request) => {
      watchers.remove(request.watcherId);
      return {};
    },
  };
}

async function toMessage({ name, type, entry }: ToldEvent) {
  const info = await entry;
  return create(FilesystemEventSchema, info === undefined ? { name, type } : { name, type, entry: info });
}

async function refuseExisting(path: string): Promise<void> {
  const stats = await stat(path).catch((error: unknown) => {
    if (!isMissing(error)) throw error;
    return undefined;
  });
  if (stats === undefined) return;
  if (stats.isDirectory()) throw new ConnectError(`directory already exists: ${path}`, Code.AlreadyExists);
  throw new ConnectError(`path already exists but it is not a directory: ${path}`, Code.InvalidArgument);
}

/** What a path leads to; `not_found` where it leads nowhere, also through a parent that is a file. */
async function found<T>(path: string, look: () => Promise<T>): Promise<T> {
  return look().catch((error: unknown) => {
    if (!isMissing(error)) throw error;
    throw new ConnectError(`path not found: ${path}`, Code.NotFound);
  });
}

async function attempt<T>(what: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw rpcError(error, what);
  }
}
