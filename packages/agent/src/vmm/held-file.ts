/**
 * Holds back whoever opens a file for writing, until it is let through: by a lease (fcntl(2), F_SETLEASE), which the
 * kernel lets its holder break in its own time. Node cannot take one; perl-base can, and is on every Debian and Ubuntu.
 *
 * It is a gate and no lock. If the holder ends, or takes longer than the kernel allows, whoever waits goes on: `letThrough`
 * tells that, and what was to happen before must then be taken as not done.
 */
import type { ChildProcessByStdio } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { plainEnvironment, spawnPiped } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted, withinMs } from '../signals/signals.ts';

export interface HeldFile {
  /** Resolves when somebody opens the file, and waits; rejects if the holder ends before that. */
  readonly asked: Promise<void>;
  /** Throws `deadline_exceeded` or `internal` if whoever waits may have gone on before. */
  letThrough(): Promise<void>;
  /** To be called in any case. Idempotent. */
  close(): void;
}

const START_TIMEOUT_MS = 10_000;
const ANSWER_TIMEOUT_MS = 5_000;
const COMPLAINT_MAX_CHARS = 200;
const BREAK_TIME_FILE = '/proc/sys/fs/lease-break-time';

/** 1024 is F_SETLEASE, 0 F_RDLCK, 2 F_UNLCK. Somebody may be about to close the file: a second for that. */
const HOLDER = `
use strict;
$| = 1;
open(my $file, "<", $ARGV[0]) or die "$ARGV[0]: $!";
$SIG{IO} = sub { print "asked\\n" };
my $left = 50;
until (fcntl($file, 1024, 0)) {
  die "lease: $!" unless $!{EAGAIN} && $left-- > 0;
  select(undef, undef, undef, 0.02);
}
print "held\\n";
<STDIN>;
fcntl($file, 1024, 2) or die "lease: $!";
print "through\\n";
`;

/** `path` must be writable for nobody who has it open now. Throws `internal`, `descriptors_exhausted`, `deadline_exceeded`. */
export async function holdFile(path: string, signal: AbortSignal): Promise<HeldFile> {
  throwIfAborted(signal);
  const sinceMs = performance.now();
  const breakMs = Number(await readFile(BREAK_TIME_FILE, 'utf8')) * 1000;
  const child = spawnPiped('/usr/bin/perl', ['-MErrno', '-e', HOLDER, path], {
    cwd: '/',
    env: plainEnvironment(),
  });
  child.stdin.on('error', () => {});
  const said = listen(child);
  const close = (): void => void child.kill('SIGKILL');
  try {
    await withinMs(START_TIMEOUT_MS, 'Holding the file', said.held);
    throwIfAborted(signal);
  } catch (error) {
    close();
    throw error;
  }
  return {
    asked: said.asked,
    async letThrough() {
      // Whoever waits has not begun to before there was a lease. 0 is for ever.
      if (breakMs > 0 && performance.now() - sinceMs >= breakMs) {
        throw new WrennError('deadline_exceeded', `${path} could be held for ${breakMs} ms, and no longer.`);
      }
      child.stdin.end('\n');
      await withinMs(ANSWER_TIMEOUT_MS, 'Letting go of the file', said.through);
    },
    close,
  };
}

type Word = 'held' | 'asked' | 'through';

/** A promise for each word that the holder says, rejected if it ends without. */
function listen(child: ChildProcessByStdio<Writable, Readable, Readable>): Record<Word, Promise<void>> {
  let complaint = '';
  const ended: ((cause: unknown) => void)[] = [];
  const heard = new Map<string, () => void>();
  const wordOf = (word: Word): Promise<void> => {
    const promise = new Promise<void>((resolve, reject) => {
      heard.set(word, resolve);
      ended.push((cause) =>
        reject(
          new WrennError('internal', `A file could not be held: ${complaint.trim() || 'perl ended'}`, {
            cause,
          }),
        ),
      );
    });
    // Whoever waits is told; without anybody it is no error.
    promise.catch(() => {});
    return promise;
  };
  const words = { held: wordOf('held'), asked: wordOf('asked'), through: wordOf('through') };
  child.stderr.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString('utf8')).slice(0, COMPLAINT_MAX_CHARS);
  });
  createInterface(child.stdout).on('line', (line) => heard.get(line)?.());
  const end = (cause?: unknown): void => {
    for (const tell of ended) tell(cause);
  };
  child.once('error', end);
  // After its output has been read.
  child.once('close', () => end());
  return words;
}
