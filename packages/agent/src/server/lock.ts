/**
 * One agent for each WRENN_DIR, by the kernel's own file lock. Node has no call for it, so flock(1) takes the
 * lock and becomes a `cat` that holds it for as long as this process holds the other end of its stdin. The
 * kernel ends that with this process, however it ends; so no lock is ever stale, and none is taken twice.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { hasErrno, missingProgram, plainEnvironment, runCommand } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

export interface Lock {
  /** Settles if the lock is lost while it is held: somebody has killed its holder. */
  readonly lost: Promise<void>;
  release(): Promise<void>;
}

/** An agent that was just killed lets go of it within milliseconds. */
const WAIT_S = 0.5;
const CONFLICT_EXIT_CODE = 75;
const LOOK_MS = 10_000;
const HELD = 'held\n';
const PID_MAX_CHARS = 16;

/** Throws `agent_already_running`. */
export async function takeLock(lockFile: string): Promise<Lock> {
  const args = ['--exclusive', '--wait', String(WAIT_S), '--conflict-exit-code', String(CONFLICT_EXIT_CODE)];
  // In a session of its own: a Ctrl+C in the terminal is for the agent, which then lets go in its own time.
  const holder = spawn('flock', [...args, '--no-fork', lockFile, 'cat'], {
    detached: true,
    env: plainEnvironment(),
    shell: false,
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const ended = endOf(holder);
  const held = new Promise<'held'>((resolve) => {
    holder.stdout.once('data', () => resolve('held'));
  });
  // It may be gone before it reads; its end tells.
  holder.stdin.on('error', () => {});
  holder.stdin.write(HELD);

  const outcome = await Promise.race([held, ended]);
  if (outcome !== 'held') throw await refusal(outcome, lockFile);
  // For whoever is refused. The lock is the kernel's, and a full disk is no reason to have none.
  await writeFile(lockFile, `${process.pid}\n`).catch(() => {});

  let released = false;
  return {
    lost: ended.then(() => (released ? new Promise<void>(() => {}) : undefined)),
    release: async () => {
      released = true;
      holder.stdin.end();
      await ended;
    },
  };
}

/** Who has written into it last that the lock is its own. */
export async function lockHolder(lockFile: string): Promise<number | undefined> {
  const pid = (await readFile(lockFile, 'utf8').catch(() => '')).trim().slice(0, PID_MAX_CHARS);
  return /^[1-9]\d*$/.test(pid) ? Number(pid) : undefined;
}

/** Whether an agent would be refused now. It is in nobody's way who looks for it at the same moment. */
export async function isLocked(lockFile: string): Promise<boolean> {
  const args = [
    '--shared',
    '--nonblock',
    '--conflict-exit-code',
    String(CONFLICT_EXIT_CODE),
    lockFile,
    'true',
  ];
  return await runCommand('flock', args, { timeoutMs: LOOK_MS }).then(
    () => false,
    (error: unknown) => {
      if (error instanceof WrennError && error.code === 'command_failed') return true;
      throw error;
    },
  );
}

type End = { readonly code: number | null } | { readonly error: Error };

function endOf(holder: ChildProcess): Promise<End> {
  return new Promise((resolve) => {
    holder.once('error', (error) => resolve({ error }));
    holder.once('exit', (code) => resolve({ code }));
  });
}

async function refusal(end: End, lockFile: string): Promise<WrennError> {
  if ('error' in end) {
    if (hasErrno(end.error, 'ENOENT')) return missingProgram('flock', end.error);
    return new WrennError('internal', 'flock could not be started.', { cause: end.error });
  }
  if (end.code !== CONFLICT_EXIT_CODE) {
    return new WrennError('missing_privilege', `${lockFile} cannot be locked.`, {
      hint: 'The agent needs to write to its directory: run it as root, or set WRENN_DIR.',
    });
  }
  const pid = await lockHolder(lockFile);
  const who = pid === undefined ? 'Another agent' : `Another agent (process ${pid})`;
  return new WrennError('agent_already_running', `${who} uses this directory already.`, {
    hint: 'Use that one, or give this one a directory of its own in WRENN_DIR.',
  });
}
