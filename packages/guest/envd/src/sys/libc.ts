/**
 * The only place that leaves JavaScript: raw system calls through libc's `syscall(2)`.
 *
 * One binding serves all of them, since every binding costs start-up time. Raw calls are also the
 * point: libc's own setuid and friends change every thread of the process, the raw ones only the
 * calling thread, which is what credentials.ts is built on. Numbers are those of x86-64.
 *
 * Nothing here waits: whoever needs readiness opens with a NONBLOCK flag.
 */
import { dlopen, FFIType, ptr, read } from 'bun:ffi';
import { systemError } from './errno.ts';

const SYS = {
  ioctl: 16,
  fcntl: 72,
  kill: 62,
  setxattr: 188,
  getxattr: 191,
  listxattr: 194,
  removexattr: 197,
  setgroups: 116,
  setresuid: 117,
  setresgid: 119,
  getgroups: 115,
  statfs: 137,
  sethostname: 170,
  getdents64: 217,
  clock_settime: 227,
  inotify_add_watch: 254,
  inotify_rm_watch: 255,
  pipe2: 293,
  inotify_init1: 294,
} as const;

export type SyscallName = keyof typeof SYS;

/** A string is passed as a NUL-terminated one, an array by its address. */
export type SyscallArgument = number | string | Uint8Array | Uint32Array | Int32Array | BigInt64Array;

export interface FileSystemStats {
  /** The magic number of statfs(2), as 0xef53 for ext4. */
  readonly type: number;
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** Free for those without privilege. */
  readonly availableBytes: number;
}

export interface Libc {
  /** The raw call: the result, or the negated errno. Never throws for a failed call. */
  raw(name: SyscallName, ...args: SyscallArgument[]): number;
  /** The call's result; throws a SystemError. `subject` is what the message speaks of. */
  call(name: SyscallName, subject: string | undefined, ...args: SyscallArgument[]): number;
  inotifyInit(flags: number): number;
  inotifyAddWatch(fd: number, path: string, mask: number): number;
  inotifyRmWatch(fd: number, watch: number): void;
  setxattr(path: string, name: string, value: Uint8Array): void;
  removexattr(path: string, name: string): void;
  statfs(path: string): FileSystemStats;
  /** `[read end, write end]`; both close on exec. */
  pipe(flags?: number): [number, number];
  setNonBlocking(fd: number): void;
  /** Another descriptor of the same open file; closes on exec. */
  duplicate(fd: number): number;
  setRealTimeClock(epochMs: number): void;
  setHostname(name: string): void;
}

const O_CLOEXEC = 0o2000000;
const O_NONBLOCK = 0o4000;
const F_GETFL = 3;
const F_SETFL = 4;
const F_DUPFD_CLOEXEC = 1030;
const CLOCK_REALTIME = 0;
const STATFS_BYTES = 120;

type Syscall = (nr: number, a: number, b: number, c: number, d: number, e: number, f: number) => number;

function bind(): { syscall: Syscall; errno: () => number } {
  const i64 = FFIType.i64_fast;
  const library = dlopen('libc.so.6', {
    syscall: { args: [i64, i64, i64, i64, i64, i64, i64], returns: i64 },
    __errno_location: { args: [], returns: FFIType.ptr },
  });
  const { syscall, __errno_location } = library.symbols;
  return {
    syscall: (...args) => Number(syscall(...args)),
    errno: () => {
      const address = __errno_location();
      return address === null ? 0 : read.i32(address, 0);
    },
  };
}

export function createLibc(): Libc {
  let binding: ReturnType<typeof bind> | undefined;
  // Kept until the next call: nothing may be collected while the kernel still uses its address.
  let held: Exclude<SyscallArgument, string>[] = [];

  function raw(name: SyscallName, ...args: SyscallArgument[]): number {
    binding ??= bind();
    held = args.map((arg) => (typeof arg === 'string' ? cString(arg) : arg));
    const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = held.map(word);
    const result = binding.syscall(SYS[name], a, b, c, d, e, f);
    return result === -1 ? -binding.errno() : result;
  }

  function call(name: SyscallName, subject: string | undefined, ...args: SyscallArgument[]): number {
    const result = raw(name, ...args);
    if (result < 0) throw systemError(-result, name, subject);
    return result;
  }

  return {
    raw,
    call,
    inotifyInit: (flags) => call('inotify_init1', undefined, flags),
    inotifyAddWatch: (fd, path, mask) => call('inotify_add_watch', path, fd, path, mask),
    inotifyRmWatch: (fd, watch) => {
      call('inotify_rm_watch', undefined, fd, watch);
    },
    setxattr: (path, name, value) => {
      call('setxattr', path, path, name, value, value.length, 0);
    },
    removexattr: (path, name) => {
      call('removexattr', path, path, name);
    },
    statfs: (path) => {
      const buffer = new Uint8Array(STATFS_BYTES);
      call('statfs', path, path, buffer);
      const view = new DataView(buffer.buffer);
      const field = (index: number) => Number(view.getBigUint64(index * 8, true));
      const fragmentBytes = field(9) || field(1);
      return {
        type: field(0),
        totalBytes: field(2) * fragmentBytes,
        freeBytes: field(3) * fragmentBytes,
        availableBytes: field(4) * fragmentBytes,
      };
    },
    pipe: (flags = 0) => {
      const ends = new Int32Array(2);
      call('pipe2', undefined, ends, flags | O_CLOEXEC);
      const [readEnd = -1, writeEnd = -1] = ends;
      return [readEnd, writeEnd];
    },
    setNonBlocking: (fd) => {
      call('fcntl', undefined, fd, F_SETFL, call('fcntl', undefined, fd, F_GETFL) | O_NONBLOCK);
    },
    duplicate: (fd) => call('fcntl', undefined, fd, F_DUPFD_CLOEXEC, 3),
    setRealTimeClock: (epochMs) => {
      const seconds = Math.floor(epochMs / 1000);
      const nanoseconds = Math.round((epochMs - seconds * 1000) * 1e6);
      call(
        'clock_settime',
        undefined,
        CLOCK_REALTIME,
        BigInt64Array.of(BigInt(seconds), BigInt(nanoseconds)),
      );
    },
    setHostname: (name) => {
      call('sethostname', name, name, Buffer.byteLength(name));
    },
  };
}

function cString(text: string): Uint8Array {
  if (text.includes('\0')) throw systemError(22, 'string with NUL', JSON.stringify(text.slice(0, 80)));
  return new TextEncoder().encode(`${text}\0`);
}

function word(arg: number | Exclude<SyscallArgument, string>): number {
  if (typeof arg === 'number') return arg;
  // Bun has no address for empty memory; the kernel reads none of it.
  return arg.byteLength === 0 ? 0 : ptr(arg);
}
