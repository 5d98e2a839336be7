/** Runs one system program that must not be ended in the middle, whatever becomes of this one. */
import { spawn } from 'node:child_process';
import { type FileHandle, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { missingProgram, plainEnvironment } from './command.ts';
import { hasErrno } from './errno.ts';

export interface UnbrokenOptions {
  /** How long it is waited for. It goes on by itself after that. */
  readonly waitMs: number;
  /** The program's whole environment. Default: that of `runCommand`. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Called with each complete line that it prints, a moment later. */
  readonly onLine?: (line: string) => void;
}

const POLL_MS = 200;
const CHUNK_BYTES = 64 * 1024;
const LINE_MAX_CHARACTERS = 4096;
const LAST_LINES = 3;
const SAID_MAX_CHARACTERS = 400;

/**
 * In a session of its own, so that no signal of a terminal reaches it; with its output in a file rather than a pipe, as
 * that would break when this process is killed; and never signalled from here.
 *
 * Throws `missing_program`, `command_failed` (with the last lines that it printed), or `deadline_exceeded` while it still runs.
 */
export async function runUnbroken(
  program: string,
  args: readonly string[],
  { waitMs, env = plainEnvironment(), onLine = () => {} }: UnbrokenOptions,
): Promise<void> {
  const output = await openUnnamed();
  try {
    const stdio = ['ignore', output.fd, output.fd] as const;
    const child = spawn(program, args, { detached: true, env, shell: false, stdio: [...stdio] });
    const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code, signal) => resolve({ code, signal }));
    });
    const lines = readLines(output, onLine);
    for (const deadline = performance.now() + waitMs; ; ) {
      const end = await Promise.race([ended, sleep(POLL_MS)]);
      await lines.readOn();
      if (end?.code === 0) return;
      if (end !== undefined) throw failed([program, ...args], end.code ?? end.signal, lines.last());
      if (performance.now() < deadline) continue;
      child.unref();
      throw new WrennError('deadline_exceeded', `${program} takes longer than ${waitMs} ms.`, {
        hint: `It is left to end by itself (process ${child.pid}). Try again after that.`,
      });
    }
  } catch (error) {
    if (hasErrno(error, 'ENOENT') && error.syscall !== undefined) throw missingProgram(program, error);
    throw error;
  } finally {
    await output.close();
  }
}

/** A file that is gone with the last process that has it open. */
async function openUnnamed(): Promise<FileHandle> {
  const directory = await mkdtemp(join(tmpdir(), 'wrenn-output-'));
  try {
    return await open(join(directory, 'output'), 'ax+', 0o600);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function failed(words: readonly string[], how: number | string | null, said: string): WrennError {
  const what = words.join(' ').slice(0, 200);
  const why = typeof how === 'number' ? `failed with exit code ${how}` : `was ended by ${how}`;
  return new WrennError('command_failed', `${what} ${why}${said && `: ${said}`}`);
}

/** What is in a file that grows, line by line; the last few are kept. */
function readLines(file: FileHandle, onLine: (line: string) => void) {
  const chunk = Buffer.alloc(CHUNK_BYTES);
  let position = 0;
  let partial = '';
  let kept: string[] = [];
  return {
    async readOn(): Promise<void> {
      for (;;) {
        const { bytesRead } = await file.read(chunk, 0, chunk.length, position);
        if (bytesRead === 0) return;
        position += bytesRead;
        const lines = (partial + chunk.toString('utf8', 0, bytesRead)).split(/[\r\n]+/);
        partial = (lines.pop() ?? '').slice(-LINE_MAX_CHARACTERS);
        const whole = lines.filter((line) => line !== '');
        for (const line of whole) onLine(line);
        kept = [...kept, ...whole].slice(-LAST_LINES);
      }
    },
    last: (): string =>
      [...kept, partial]
        .filter((line) => line !== '')
        .slice(-LAST_LINES)
        .join(' | ')
        .slice(-SAID_MAX_CHARACTERS),
  };
}
