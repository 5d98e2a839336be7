/**
 * One inotify instance for all watchers: the kernel grants a user 128 of them, and one reader wakes for
 * all. Opened with the first watch and kept for good; a silent one costs nothing.
 *
 * The kernel has one watch per directory and instance, so those who watch the same directory share it.
 */
import { Code, ConnectError } from '@connectrpc/connect';
import { errnoCode } from '../sys/errno.ts';
import { rpcError } from './fs-errors.ts';
import { createInotifyParser, IN, type InotifyEvent } from './inotify-event.ts';

export interface InotifySubscriber {
  onEvent(event: InotifyEvent): void;
  /** Events have been lost, or none will come any more. */
  onFailure(error: ConnectError): void;
}

export interface Inotify {
  /** The number of the watch. A SystemError where it can't be watched (ENOENT, ENOTDIR, ENOSPC, …). */
  add(path: string, subscriber: InotifySubscriber): number;
  /** No event of this watch reaches the subscriber any more. Without effect where there is none. */
  remove(wd: number, subscriber: InotifySubscriber): void;
  /** Resolves when everything that happened before the call has been handed out. */
  settled(): Promise<void>;
}

/** What it stands on: see sys/libc.ts, and Bun's file streams, which wait for a descriptor without a thread. */
export interface InotifyCalls {
  inotifyInit(flags: number): number;
  inotifyAddWatch(fd: number, path: string, mask: number): number;
  inotifyRmWatch(fd: number, watch: number): void;
  pipe(): [number, number];
  readChunks(fd: number): AsyncIterable<Uint8Array>;
}

const NONBLOCK = 0o4000;
const CLOEXEC = 0o2000000;
/** That of fsnotify. Unlinked files that are still written to tell nothing anyone could use. */
const MASK =
  IN.CREATE |
  IN.MODIFY |
  IN.ATTRIB |
  IN.DELETE |
  IN.MOVED_FROM |
  IN.MOVED_TO |
  IN.DELETE_SELF |
  IN.MOVE_SELF |
  IN.ONLYDIR |
  IN.DONT_FOLLOW |
  IN.EXCL_UNLINK;

export function createInotify(calls: InotifyCalls): Inotify {
  let instance: { readonly fd: number; readonly markerPath: string } | undefined;
  const subscribers = new Map<number, Set<InotifySubscriber>>();
  const markers = new Map<number, () => void>();

  function open(): { readonly fd: number; readonly markerPath: string } {
    if (instance !== undefined) return instance;
    const fd = calls.inotifyInit(NONBLOCK | CLOEXEC);
    // Something to watch that nobody else can: see settled().
    const [markerFd] = calls.pipe();
    instance = { fd, markerPath: `/proc/self/fd/${markerFd}` };
    void readAll(fd);
    return instance;
  }

  async function readAll(fd: number): Promise<void> {
    let reason: unknown = new Error('the stream has ended');
    try {
      const parse = createInotifyParser();
      for await (const chunk of calls.readChunks(fd)) {
        for (const event of parse(chunk)) dispatch(event);
      }
    } catch (error) {
      reason = error;
    }
    instance = undefined;
    failAll(
      new ConnectError('changes can no longer be watched', Code.Internal, undefined, undefined, reason),
    );
  }

  function dispatch(event: InotifyEvent): void {
    if (event.mask & IN.Q_OVERFLOW) {
      failAll(new ConnectError('too many changes at once: some were lost', Code.ResourceExhausted));
      return;
    }
    const concerned = [...(subscribers.get(event.wd) ?? [])];
    if (event.mask & IN.IGNORED) {
      markers.get(event.wd)?.();
      markers.delete(event.wd);
      subscribers.delete(event.wd);
    }
    for (const subscriber of concerned) hand(event, subscriber);
  }

  /** One subscriber's trouble is not the others'. */
  function hand(event: InotifyEvent, subscriber: InotifySubscriber): void {
    try {
      subscriber.onEvent(event);
    } catch (error) {
      subscriber.onFailure(rpcError(error, 'watching failed'));
    }
  }

  function failAll(error: ConnectError): void {
    // What was lost may have been a marker.
    for (const pass of markers.values()) pass();
    markers.clear();
    const all = new Set([...subscribers.values()].flatMap((set) => [...set]));
    for (const subscriber of all) subscriber.onFailure(error);
  }

  return {
    add: (path, subscriber) => {
      const wd = calls.inotifyAddWatch(open().fd, path, MASK);
      const sharing = subscribers.get(wd) ?? new Set();
      subscribers.set(wd, sharing.add(subscriber));
      return wd;
    },

    remove: (wd, subscriber) => {
      const sharing = subscribers.get(wd);
      if (!sharing?.delete(subscriber) || sharing.size > 0) return;
      subscribers.delete(wd);
      if (instance === undefined) return;
      try {
        calls.inotifyRmWatch(instance.fd, wd);
      } catch (error) {
        // EINVAL: the directory has gone, and its watch with it; the event that says so is on its way.
        if (errnoCode(error) !== 'EINVAL') throw error;
      }
    },

    settled: async () => {
      if (instance === undefined) return;
      const { fd, markerPath } = instance;
      // A watch that is taken away at once leaves its IN_IGNORED behind all events that came before.
      const wd = calls.inotifyAddWatch(fd, markerPath, IN.ATTRIB);
      const passed = new Promise<void>((resolve) => markers.set(wd, resolve));
      calls.inotifyRmWatch(fd, wd);
      await passed;
    },
  };
}
