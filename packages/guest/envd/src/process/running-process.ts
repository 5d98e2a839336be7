/** One process from its start to its end: output, input, signals, deadline, and how it ended. */
import { closeSync } from 'node:fs';
import { Code, ConnectError } from '@connectrpc/connect';
import type { ProcessConfig } from '@wrenn/protocol/process';
import { logError } from '../log.ts';
import { errnoCode } from '../sys/errno.ts';
import type { Libc } from '../sys/libc.ts';
import { type PtySize, setPtySize } from '../sys/pty.ts';
import { type ExitStatus, exitStatus } from './exit-status.ts';
import { createInputQueue } from './input-queue.ts';
import { createOutputHub, type Subscription } from './output-hub.ts';
import { pump } from './pump.ts';
import type { Child, OutputKind } from './spawn.ts';

export interface Output {
  readonly kind: OutputKind;
  readonly bytes: Uint8Array;
}

export interface RunningProcess {
  readonly pid: number;
  readonly tag: string | undefined;
  readonly config: ProcessConfig;
  /** Settles once the process is gone and its output is taken; never rejects. */
  readonly ended: Promise<ExitStatus>;
  /** Whether its deadline has come while it ran. */
  timedOut(): boolean;
  /** From now on; earlier output is not repeated. */
  subscribe(): Subscription<Output>;
  /** Signals the process and everything in its process group. */
  signal(signal: 'SIGTERM' | 'SIGKILL'): void;
  write(kind: 'stdin' | 'pty', bytes: Uint8Array, signal: AbortSignal): Promise<void>;
  closeStdin(): Promise<void>;
  resize(size: PtySize): void;
}

export interface ProcessIdentity {
  readonly tag: string | undefined;
  readonly config: ProcessConfig;
  /** SIGKILL after so long; undefined for never. */
  readonly killAfterMs: number | undefined;
}

/** To be called in the same tick as `spawn`, so that no output is missed. */
export function superviseProcess(libc: Libc, child: Child, identity: ProcessIdentity): RunningProcess {
  const pid = child.process.pid;
  const hub = createOutputHub<Output>();
  const input = child.input === undefined ? undefined : createInputQueue(child.input);
  const isTerminal = child.outputs.some((output) => output.kind === 'pty');
  const openOutputs = new Map(child.outputs.map(({ kind, fd }) => [kind, fd]));
  /** Aborted when the process was killed through us and is gone: its heirs' output is of no interest. */
  const cut = new AbortController();
  let gone = false;
  let killed = false;
  let timedOut = false;

  function sendSignal(signal: 'SIGTERM' | 'SIGKILL'): void {
    killed = true;
    if (gone) {
      // Reaped, and its pid may be somebody else's by now; what holds its output open is let go of.
      cut.abort();
      return;
    }
    try {
      process.kill(-pid, signal);
    } catch (error) {
      if (errnoCode(error) !== 'ESRCH') throw error;
    }
  }

  const killTimer =
    identity.killAfterMs === undefined
      ? undefined
      : setTimeout(() => {
          timedOut = true;
          sendSignal('SIGKILL');
        }, identity.killAfterMs);

  async function follow(kind: OutputKind, fd: number): Promise<void> {
    const reader = Bun.file(fd).stream().getReader();
    try {
      await pump(reader, (bytes) => hub.publish({ kind, bytes }), cut.signal);
    } catch (error) {
      logError(`reading ${kind} of process ${pid} failed`, error);
    } finally {
      // Rejects with what was reported already.
      await reader.cancel().catch(() => {});
      openOutputs.delete(kind);
      closeSync(fd);
    }
  }

  async function untilGone(): Promise<void> {
    await child.process.exited;
    gone = true;
    input?.destroy();
    if (killed) cut.abort();
  }

  async function untilEnded(): Promise<ExitStatus> {
    await Promise.all([untilGone(), ...child.outputs.map(({ kind, fd }) => follow(kind, fd))]);
    clearTimeout(killTimer);
    hub.end();
    return exitStatus(child.process.exitCode, child.process.signalCode);
  }

  return {
    pid,
    tag: identity.tag,
    config: identity.config,
    ended: untilEnded(),
    timedOut: () => timedOut,
    subscribe: hub.subscribe,
    signal: sendSignal,
    write: async (kind, bytes, signal) => {
      if (kind === 'pty' && !isTerminal) {
        throw precondition('the process has no terminal: its input goes to stdin');
      }
      if (kind === 'stdin' && isTerminal) {
        throw precondition('the process has a terminal: its input goes to the pty, not to stdin');
      }
      if (input === undefined) throw precondition('stdin not enabled or closed');
      await input.write(bytes, signal);
    },
    closeStdin: async () => {
      if (isTerminal) {
        throw precondition('stdin of a process with a terminal cannot be closed: send Ctrl+D (0x04) instead');
      }
      await input?.close();
    },
    resize: (size) => {
      if (!isTerminal) throw precondition('tty not assigned to process');
      const master = openOutputs.get('pty');
      if (master !== undefined) setPtySize(libc, master, size);
    },
  };
}

function precondition(message: string): ConnectError {
  return new ConnectError(message, Code.FailedPrecondition);
}
