/** Runs one system program to its end: argument arrays only, a deadline always, bounded output. */
import type { ChildProcess } from 'node:child_process';
import { WrennError } from '@wrenn/protocol';
import { hasErrno } from './errno.ts';
import { spawnPiped } from './spawn.ts';

export interface CommandOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Given to the program's stdin, which is then closed; without it stdin is /dev/null. */
  readonly input?: string | Uint8Array;
  /** For each of stdout and stderr. More than this on stdout fails the command. Default 1 MiB. */
  readonly maxOutputBytes?: number;
  /** The program's whole environment. Default: PATH and a C locale, nothing else. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Called with each complete line of stdout and stderr, for progress. */
  readonly onLine?: (line: string) => void;
}

export interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
}

/** Which Debian package brings a program; for hints. */
const DEBIAN_PACKAGES: Readonly<Record<string, string>> = {
  'apt-get': 'apt',
  bwrap: 'bubblewrap',
  busybox: 'busybox-static',
  cp: 'coreutils',
  cpio: 'cpio',
  'dpkg-deb': 'dpkg',
  ip: 'iproute2',
  lz4: 'lz4',
  mke2fs: 'e2fsprogs',
  'mkfs.ext4': 'e2fsprogs',
  mmdebstrap: 'mmdebstrap',
  nft: 'nftables',
  nsenter: 'util-linux',
  openssl: 'openssl',
  prlimit: 'util-linux',
  'qemu-system-x86_64': 'qemu-system-x86',
  setpriv: 'util-linux',
  systemctl: 'systemd',
  'systemd-sysusers': 'systemd',
  tc: 'iproute2',
  unshare: 'util-linux',
  xz: 'xz-utils',
  zstd: 'zstd',
};

const DEFAULT_MAX_OUTPUT_BYTES = 1024 * 1024;
const KILL_GRACE_MS = 2_000;

/** The environment that programs get unless told otherwise: nothing of ours leaks into them. */
export function plainEnvironment(): Record<string, string> {
  return {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    LC_ALL: 'C.UTF-8',
    HOME: '/root',
  };
}

/** The `missing_program` error, with the package that brings the program. */
export function missingProgram(program: string, cause?: unknown): WrennError {
  const debianPackage = DEBIAN_PACKAGES[program] ?? program;
  return new WrennError('missing_program', `The program ${program} is not installed.`, {
    hint: `apt-get install ${debianPackage}`,
    cause,
  });
}

/**
 * Runs a program and returns what it printed.
 *
 * Throws `missing_program`, `descriptors_exhausted`, `command_failed` (with the exit code and the end of stderr),
 * `deadline_exceeded`, or `cancelled`; in each case the program is gone when the promise settles. Only one that this
 * process may not end, as what sudo runs, is left behind then, without anybody who reads what it prints.
 */
export async function runCommand(
  program: string,
  args: readonly string[],
  options: CommandOptions,
): Promise<CommandResult> {
  if (options.signal?.aborted) throw cancelled(program, options.signal.reason);
  const maxBytes = options.maxOutputBytes ?? DEFAULT_MAX_OUTPUT_BYTES;

  const child = spawnPiped(program, args, {
    // A process group of its own, so that a deadline ends the program's children with it.
    detached: true,
    env: options.env ?? plainEnvironment(),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });

  let stopReason: WrennError | undefined;
  let killTimer: NodeJS.Timeout | undefined;
  let abandon = (_reason: WrennError): void => {};
  const stop = (reason: WrennError) => {
    if (stopReason !== undefined) return;
    stopReason = reason;
    signalGroup(child, 'SIGTERM');
    killTimer = setTimeout(() => {
      if (signalGroup(child, 'SIGKILL')) return;
      for (const stream of [child.stdin, child.stdout, child.stderr]) stream.destroy();
      child.unref();
      abandon(reason);
    }, KILL_GRACE_MS);
  };
  const deadline = setTimeout(() => {
    stop(new WrennError('deadline_exceeded', `${program} took longer than ${options.timeoutMs} ms.`));
  }, options.timeoutMs);
  const onAbort = () => stop(cancelled(program, options.signal?.reason));
  options.signal?.addEventListener('abort', onAbort, { once: true });

  const stdout = collect(child.stdout, maxBytes, options.onLine, () =>
    stop(new WrennError('command_failed', `${program} printed more than ${maxBytes} bytes.`)),
  );
  const stderr = collect(child.stderr, maxBytes, options.onLine, () => {});
  // A program may end without reading its input; that is its business.
  child.stdin.on('error', () => {});
  child.stdin.end(options.input);

  try {
    const exit = await new Promise<{ code: number | null; signal: NodeJS.Signals | null }>(
      (resolve, reject) => {
        abandon = reject;
        child.once('error', reject);
        child.once('close', (code, signal) => resolve({ code, signal }));
      },
    );
    if (stopReason !== undefined) throw stopReason;
    if (exit.code === 0) return { stdout: stdout(), stderr: stderr() };
    const how = exit.signal === null ? `failed with exit code ${exit.code}` : `was ended by ${exit.signal}`;
    const said = lastLines(stderr() || stdout());
    throw new WrennError(
      'command_failed',
      `${[program, ...args].join(' ').slice(0, 200)} ${how}${said && `: ${said}`}`,
    );
  } catch (error) {
    if (isNotFound(error)) throw missingProgram(program, error);
    throw error;
  } finally {
    clearTimeout(deadline);
    clearTimeout(killTimer);
    options.signal?.removeEventListener('abort', onAbort);
  }
}

/** Signals the program and all that it started. False where that is not allowed: what sudo has started is root's. */
function signalGroup(child: ChildProcess, signal: NodeJS.Signals): boolean {
  if (child.pid === undefined) return true;
  try {
    process.kill(-child.pid, signal);
  } catch (error) {
    if (hasErrno(error, 'EPERM')) return false;
    // Gone already; anything else would be a bug worth seeing.
    if (!hasErrno(error, 'ESRCH')) throw error;
  }
  return true;
}

function cancelled(program: string, cause: unknown): WrennError {
  return new WrennError('cancelled', `${program} was cancelled.`, { cause });
}

function isNotFound(error: unknown): boolean {
  return hasErrno(error, 'ENOENT') && error.syscall !== undefined;
}

/** Keeps at most `maxBytes` of a stream, always reading on so that the program is never blocked. */
function collect(
  stream: NodeJS.ReadableStream,
  maxBytes: number,
  onLine: ((line: string) => void) | undefined,
  onOverflow: () => void,
): () => string {
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  let partial = '';
  stream.on('data', (chunk: Buffer) => {
    if (onLine !== undefined) {
      const lines = (partial + chunk.toString('utf8')).split(/[\r\n]+/);
      partial = (lines.pop() ?? '').slice(-4096);
      for (const line of lines) if (line !== '') onLine(line);
    }
    if (sizeBytes + chunk.length > maxBytes) onOverflow();
    const room = maxBytes - sizeBytes;
    if (room <= 0) return;
    chunks.push(chunk.subarray(0, room));
    sizeBytes += Math.min(chunk.length, room);
  });
  return () => Buffer.concat(chunks).toString('utf8');
}

function lastLines(text: string): string {
  return text.trim().split('\n').slice(-3).join(' | ').slice(-400);
}
