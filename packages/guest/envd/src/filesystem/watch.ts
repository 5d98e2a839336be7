/**
 * Watches a directory, or a whole tree, and tells each change by its name below the root and its type,
 * as fsnotify does, on which E2B's envd stands. Better than that in two points: what is created in a new
 * directory before its watch stands is told too (once), and what is moved out of the tree is let go.
 */
import { lstatSync, type Stats } from 'node:fs';
import { join } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import type { EventType } from '@wrenn/protocol/filesystem';
import { errnoCode } from '../sys/errno.ts';
import { type Dirent, type DirentSource, readDirents } from './dirents.ts';
import { isOutOfReach, rpcError } from './fs-errors.ts';
import type { Inotify, InotifySubscriber } from './inotify.ts';
import { eventTypes, IN, type InotifyEvent } from './inotify-event.ts';
import { type Branch, createWatchedTree } from './watched-tree.ts';

export interface WatchRequest {
  /** A directory, links resolved. */
  readonly root: string;
  readonly recursive: boolean;
  /** `name` is relative to the root; `.` is the root itself. False: no more is wanted, the watch closes. */
  onEvent(name: string, type: EventType): boolean;
  /** Called at most once; the watch is closed then. */
  onFailure(error: ConnectError): void;
}

export interface DirectoryWatch {
  /** Idempotent. */
  close(): void;
}

export interface WatchDependencies {
  readonly inotify: Inotify;
  readonly dirents: DirentSource;
}

/** What one watch may hold of the agent's memory and of the kernel's. */
const WATCHED_DIRECTORIES_MAX = 65_536;
/** How long a walk may keep the event loop to itself. */
const WALK_SLICE_MS = 10;

/** Resolves when the whole tree is watched. */
export async function watchDirectory(
  request: WatchRequest,
  { inotify, dirents }: WatchDependencies,
): Promise<DirectoryWatch> {
  const tree = createWatchedTree();
  /** Names in new directories that were found by looking, whose CREATE may yet come; by watch. */
  const told = new Map<number, Set<string>>();
  /** Directories that have left their place, by cookie: the other half says where to, or never comes. */
  const leaving = new Map<number, Branch>();
  /** Watches whose place another directory has taken. */
  const displaced = new Set<number>();
  let isSettling = false;
  let closed = false;

  const subscriber: InotifySubscriber = {
    onEvent: (event) => {
      if (!closed) handle(event);
    },
    onFailure: fail,
  };

  function handle(event: InotifyEvent): void {
    const directory = tree.pathOf(event.wd);
    if (directory === undefined) return;
    if (event.mask & IN.IGNORED) {
      tree.forget(event.wd);
      told.delete(event.wd);
      return;
    }
    // What has left its place tells nothing of what has its name now.
    if (tree.isDetached(event.wd)) return;
    if (event.name === '') {
      // Of all others their parent tells the same.
      if (directory === '') handleRoot(event.mask);
      return;
    }
    if (event.mask & (IN.DELETE | IN.MOVED_FROM)) told.get(event.wd)?.delete(event.name);
    if (event.mask & IN.CREATE && told.get(event.wd)?.delete(event.name)) return;
    const path = below(directory, event.name);
    tell(path, event.mask);
    if (request.recursive && event.mask & IN.ISDIR) followDirectory(path, event);
  }

  function handleRoot(mask: number): void {
    tell('.', mask);
    // It now has another name, which nobody asked about.
    if (mask & IN.MOVE_SELF) release(tree.clear());
  }

  function followDirectory(path: string, { mask, cookie }: InotifyEvent): void {
    if (mask & IN.CREATE) {
      adoptNew(path);
    } else if (mask & IN.MOVED_FROM) {
      const branch = tree.detach(path);
      leaving.set(cookie, branch);
      // Both halves of a rename within the tree come together; after that it has left the tree. Its name may long be
      // another directory's.
      void inotify.settled().then(() => {
        if (leaving.delete(cookie)) release(detachedOf(branch.map(({ wd }) => wd)));
      }, fail);
    } else if (mask & IN.MOVED_TO) {
      const branch = leaving.get(cookie);
      leaving.delete(cookie);
      if (branch !== undefined) displace(tree.attach(branch, path));
      // Also after a move within: a walk under way may have lost its way there.
      walk(path).catch(fail);
    }
  }

  /** Undefined where the directory has gone, or is watched already. */
  function watchOne(path: string): number | undefined {
    if (tree.size >= WATCHED_DIRECTORIES_MAX) {
      throw new ConnectError(
        `more than ${WATCHED_DIRECTORIES_MAX} directories: watch a part of them`,
        Code.ResourceExhausted,
      );
    }
    try {
      const wd = inotify.add(join(request.root, path), subscriber);
      if (tree.watchOf(path) === wd) return undefined;
      const former = tree.set(wd, path);
      if (former !== undefined) displace([former]);
      return wd;
    } catch (error) {
      if (path !== '' && isOutOfReach(error)) return undefined;
      throw errnoCode(error) === 'ENOSPC' ? tooManyWatches(error) : error;
    }
  }

  /**
   * A directory just made: what is in it by the time that its watch stands is new as well. Read at once,
   * before any further event, so that what comes twice is known: a name is told here, and its CREATE, if
   * it came after the watch, is dropped. What has contents by then has been written to.
   */
  function adoptNew(path: string): void {
    const pending = [path];
    for (let next = pending.pop(); next !== undefined && !closed; next = pending.pop()) {
      const wd = watchOne(next);
      if (wd === undefined) continue;
      const names = new Set<string>();
      for (const found of readDirents(dirents, join(request.root, next))) {
        for (const dirent of found) {
          const child = below(next, dirent.name);
          tell(child, dirent.kind === 'directory' || !hasContents(child) ? IN.CREATE : IN.CREATE | IN.MODIFY);
          if (closed) return;
          names.add(dirent.name);
          if (isDirectory(dirent, child)) pending.push(child);
        }
      }
      if (names.size === 0) continue;
      told.set(wd, names);
      void inotify.settled().then(() => told.delete(wd), fail);
    }
  }

  /** A tree that was there before: watched, and nothing told. */
  async function walk(path: string): Promise<void> {
    const pending = [path];
    let sliceEndMs = performance.now() + WALK_SLICE_MS;
    for (let next = pending.pop(); next !== undefined && !closed; next = pending.pop()) {
      watchOne(next);
      if (!request.recursive) return;
      for (const found of readDirents(dirents, join(request.root, next))) {
        for (const dirent of found) {
          const child = below(next, dirent.name);
          if (isDirectory(dirent, child)) pending.push(child);
        }
        if (performance.now() < sliceEndMs) continue;
        await new Promise((resolve) => setImmediate(resolve));
        sliceEndMs = performance.now() + WALK_SLICE_MS;
      }
    }
  }

  /** They stand for nothing now: mostly they were removed, and the event that says so is on its way. */
  function displace(watches: readonly number[]): void {
    for (const wd of watches) displaced.add(wd);
    if (isSettling || displaced.size === 0) return;
    isSettling = true;
    settleDisplaced().catch(fail);
  }

  async function settleDisplaced(): Promise<void> {
    while (displaced.size > 0 && !closed) {
      const watches = [...displaced];
      displaced.clear();
      await inotify.settled();
      // What is still there is somewhere in the tree, where events did not suffice to find it: two directories that were
      // exchanged, say. What is nowhere has left.
      if (detachedOf(watches).length > 0) await walk('');
      release(detachedOf(watches));
    }
    isSettling = false;
  }

  function detachedOf(watches: readonly number[]): number[] {
    return watches.filter(tree.isDetached);
  }

  /** Some file systems do not say in the directory of what kind an entry is. */
  function isDirectory(dirent: Dirent, path: string): boolean {
    if (dirent.kind !== 'unknown') return dirent.kind === 'directory';
    return statsOf(path)?.isDirectory() ?? false;
  }

  function hasContents(path: string): boolean {
    const stats = statsOf(path);
    return stats?.isFile() === true && stats.size > 0;
  }

  function statsOf(path: string): Stats | undefined {
    try {
      return lstatSync(join(request.root, path));
    } catch (error) {
      if (isOutOfReach(error)) return undefined;
      throw error;
    }
  }

  function tell(name: string, mask: number): void {
    for (const type of eventTypes(mask)) {
      if (!request.onEvent(name, type)) close();
    }
  }

  function release(watches: readonly number[]): void {
    for (const wd of watches) {
      tree.forget(wd);
      told.delete(wd);
      inotify.remove(wd, subscriber);
    }
  }

  function close(): void {
    closed = true;
    release(tree.clear());
  }

  function fail(error: unknown): void {
    if (closed) return;
    close();
    request.onFailure(rpcError(error, `watching ${request.root} failed`));
  }

  try {
    await walk('');
  } catch (error) {
    close();
    throw error;
  }
  return { close };
}

function below(directory: string, name: string): string {
  return directory === '' ? name : `${directory}/${name}`;
}

function tooManyWatches(cause: unknown): ConnectError {
  return new ConnectError(
    'the kernel has no inotify watches left: raise fs.inotify.max_user_watches',
    Code.ResourceExhausted,
    undefined,
    undefined,
    cause,
  );
}
