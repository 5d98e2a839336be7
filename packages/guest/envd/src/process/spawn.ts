/**
 * Starts a process: its descriptors, its session, its credentials.
 *
 * Pipes are made here, because Bun's own are sockets, and /dev/stdout cannot be opened on a socket.
 * Every process leads a session and a process group of its own, so that a signal reaches what it
 * started too. All descriptors close on exec; the child gets 0, 1 and 2 and no other.
 */
import { closeSync, fchownSync } from 'node:fs';
import { Code } from '@connectrpc/connect';
import type { Credentials } from '../sys/credentials.ts';
import { errnoCode } from '../sys/errno.ts';
import type { Libc } from '../sys/libc.ts';
import { openPty } from '../sys/pty.ts';
import { type Command, startFailed } from './command.ts';

export type OutputKind = 'stdout' | 'stderr' | 'pty';

export interface Child {
  readonly process: Bun.Subprocess;
  /** To read from; the owner closes them. They do not block. */
  readonly outputs: readonly { readonly kind: OutputKind; readonly fd: number }[];
  /** To write to; undefined where stdin is /dev/null. The owner closes it. */
  readonly input: number | undefined;
}

type Stdio = number | 'ignore' | Bun.BunFile;

/** The child's side (closed here, whatever happens) and ours (closed here if the start fails). */
interface Descriptors {
  readonly stdio: [Stdio, Stdio, Stdio];
  readonly child: Pick<Child, 'outputs' | 'input'>;
}

/** Transient lack of something: worth trying again, unlike a wrong request. */
const EXHAUSTED = new Set(['EAGAIN', 'ENOMEM', 'EMFILE', 'ENFILE', 'ENOSPC']);

export function spawn(libc: Libc, credentials: Credentials, command: Command): Child {
  const theirs: number[] = [];
  const ours: number[] = [];
  try {
    const { stdio, child } =
      command.pty === undefined
        ? openPipes(libc, command, theirs, ours)
        : openTerminal(libc, command, theirs, ours);
    const started = credentials.runAs(command.user, () =>
      Bun.spawn(command.pty === undefined ? [command.file, ...command.args] : throughShell(command), {
        ...(command.pty === undefined ? { argv0: command.name } : {}),
        cwd: command.cwd,
        env: command.environment,
        stdio,
        detached: true,
      }),
    );
    return { ...child, process: started };
  } catch (error) {
    for (const fd of ours) closeSync(fd);
    throw spawnError(command, error);
  } finally {
    for (const fd of theirs) closeSync(fd);
  }
}

function openPipes(libc: Libc, command: Command, theirs: number[], ours: number[]): Descriptors {
  const pipe = (ourEnd: 0 | 1) => {
    const ends = libc.pipe();
    const [own, child] = ourEnd === 0 ? ends : ([ends[1], ends[0]] as const);
    ours.push(own);
    theirs.push(child);
    libc.setNonBlocking(own);
    // Opening /dev/stdout is checked against the pipe's owner.
    if (process.geteuid?.() === 0) fchownSync(child, command.user.uid, command.user.gid);
    return [own, child] as const;
  };
  const [stdinWriter, stdin] = command.openStdin ? pipe(1) : ([undefined, 'ignore'] as const);
  const [stdoutReader, stdout] = pipe(0);
  const [stderrReader, stderr] = pipe(0);
  return {
    stdio: [stdin, stdout, stderr],
    child: {
      input: stdinWriter,
      outputs: [
        { kind: 'stdout', fd: stdoutReader },
        { kind: 'stderr', fd: stderrReader },
      ],
    },
  };
}

function openTerminal(libc: Libc, command: Command, theirs: number[], ours: number[]): Descriptors {
  const pty = openPty(libc, command.pty ?? { cols: 80, rows: 24 }, command.user.uid);
  ours.push(pty.master);
  theirs.push(pty.slave);
  // A descriptor of its own for writing, since reading and writing are polled for separately.
  const writer = libc.duplicate(pty.master);
  ours.push(writer);
  return {
    // The child itself opens its stdin, after it has become a session leader: a terminal that is opened
    // so for reading becomes its controlling one. `throughShell` makes it writable, as terminals are.
    stdio: [Bun.file(pty.slavePath), pty.slave, pty.slave],
    child: { input: writer, outputs: [{ kind: 'pty', fd: pty.master }] },
  };
}

/**
 * Bun opens stdin for reading only, but programs such as tmux write to a terminal's. One exec more is
 * no matter for something that a person sits in front of.
 */
function throughShell(command: Command): string[] {
  return ['/bin/sh', '-c', 'exec "$@" <&1', 'sh', command.file, ...command.args];
}

function spawnError(command: Command, error: unknown): unknown {
  const code = errnoCode(error);
  if (code === undefined || !(error instanceof Error) || !('syscall' in error)) return error;
  if (EXHAUSTED.has(code)) return startFailed(command.name, code, Code.ResourceExhausted);
  return startFailed(command.name, `${code} (as '${command.user.name}' in '${command.cwd}')`);
}
