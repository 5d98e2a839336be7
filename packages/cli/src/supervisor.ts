/** A process of ours that runs for as long as this one: started again when it dies, ended within a bound. */
import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { splitLines } from './log-lines.ts';

const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;
/** One that lived so long has not failed to start. */
const STEADY_MS = 60_000;
const MAX_FAILURES_IN_A_ROW = 6;
const END_MS = 30_000;

export interface SupervisedOptions {
  /** Of the program `wrenn`. */
  readonly words: readonly string[];
  /** The same for all but its first process; `words` unless given. */
  readonly wordsAgain?: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly onStdout: (line: string) => void;
  readonly onStderr: (line: string) => void;
  /** It died, and another one is started after that long. */
  readonly onRestart: (why: string, pauseMs: number) => void;
  /** Whether another one, not of this program's, does the work now: for as long as that is so none is started. */
  readonly isReplaced?: () => Promise<boolean>;
  /** Its exit code where it finds another one in its place: no failure to start. */
  readonly refusedExitCode?: number;
  readonly firstPauseMs?: number;
  /** Another program than this one; for tests. */
  readonly program?: readonly string[];
}

export interface Supervised {
  /** Resolves with the reason when it is given up: its first process has ended, or too many in a row. */
  readonly gaveUp: Promise<WrennError>;
  /** From now on a death is made good. */
  ready(): void;
  /** Idempotent. */
  stop(): Promise<void>;
  /** For whoever cannot wait: it is not started again. */
  kill(): void;
}

interface End {
  readonly why: string;
  readonly isRefused: boolean;
}

export function supervise(options: SupervisedOptions): Supervised {
  const { words, wordsAgain = words, env, onStdout, onStderr, onRestart } = options;
  const { firstPauseMs = FIRST_PAUSE_MS, isReplaced = async () => false, refusedExitCode } = options;
  const [program = process.execPath, ...before] = options.program ?? [
    process.execPath,
    process.argv[1] ?? '',
  ];
  const stopping = new AbortController();
  let child: ChildProcess | undefined;
  let isReady = false;

  const runOnce = async (these: readonly string[]): Promise<End> => {
    const started = spawn(program, [...before, ...these], {
      env: { ...process.env, ...env },
      // Its stdin ends with this process, however that ends. Ctrl+C is for this process alone.
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
    });
    child = started;
    started.stdin.on('error', () => {});
    started.stdout.on('data', splitLines(onStdout));
    started.stderr.on('data', splitLines(onStderr));
    return await new Promise<End>((resolve) => {
      started.once('error', () => resolve({ why: 'could not be started', isRefused: false }));
      started.once('close', (code, signal) =>
        resolve({
          why: signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`,
          isRefused: code !== null && code === refusedExitCode,
        }),
      );
    });
  };

  /** Whether there was anything to wait for. */
  const standBy = async (): Promise<boolean> => {
    let hasWaited = false;
    for (; !stopping.signal.aborted && (await isReplaced()); hasWaited = true) {
      await sleep(firstPauseMs, undefined, { signal: stopping.signal }).catch(() => {});
    }
    return hasWaited;
  };

  const run = async (): Promise<WrennError> => {
    let pauseMs = firstPauseMs;
    let these = words;
    for (let failures = 0; ; these = wordsAgain) {
      const wasReplaced = await standBy();
      if (stopping.signal.aborted) return await new Promise(() => {});
      const startedAt = performance.now();
      const { why, isRefused } = await runOnce(these);
      if (stopping.signal.aborted) return await new Promise(() => {});
      const wasSteady = wasReplaced || performance.now() - startedAt > STEADY_MS;
      failures = wasSteady ? 1 : failures + 1;
      if (wasSteady) pauseMs = firstPauseMs;
      if (!(isReady || isRefused) || failures >= MAX_FAILURES_IN_A_ROW) {
        return new WrennError('agent_not_running', `wrenn ${words[0]} ${why}.`, {
          hint: 'What it said is above.',
        });
      }
      onRestart(why, pauseMs);
      await sleep(pauseMs, undefined, { signal: stopping.signal }).catch(() => {});
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    }
  };

  return {
    gaveUp: run(),
    ready: () => {
      isReady = true;
    },
    kill: () => {
      stopping.abort();
      child?.kill('SIGKILL');
    },
    stop: async () => {
      stopping.abort();
      const last = child;
      if (last === undefined || last.exitCode !== null || last.signalCode !== null) return;
      const closed = new Promise((resolve) => last.once('close', resolve));
      last.kill('SIGTERM');
      const late = setTimeout(() => last.kill('SIGKILL'), END_MS);
      await closed;
      clearTimeout(late);
    },
  };
}

/** For the other side: ends this process as SIGTERM does when the one that supervises it is gone. */
export function endWithParent(): void {
  process.stdin.resume();
  process.stdin.on('error', () => {});
  // Waiting for it alone keeps no process alive.
  if ('unref' in process.stdin) process.stdin.unref();
  process.stdin.once('close', () => process.kill(process.pid, 'SIGTERM'));
}
