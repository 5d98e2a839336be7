/**
 * Memory that many microVMs start from, held where none of them can change it.
 *
 * QEMU before 8.2 opens the file behind a private mapping for writing, or maps it read-only for the guest too. With a
 * plain file a VMM that its guest has taken over could change the memory that all others start from. So QEMU is given
 * a sealed memfd: it opens for writing, can be mapped privately, and refuses every write and every shared writable
 * mapping, for ever (memfd_create(2), F_SEAL_WRITE). Node cannot make one, perl-base can and is on every Debian and
 * Ubuntu: a small process fills it from the file, seals it and holds it until the agent closes its stdin or ends.
 * The pages are shared by all microVMs; those of a file that nobody has read take none.
 */
import type { ChildProcessByStdio } from 'node:child_process';
import { type FileHandle, open } from 'node:fs/promises';
import type { Readable, Writable } from 'node:stream';
import { plainEnvironment, spawnPiped } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted, withinMs } from '../../signals/signals.ts';

export interface SharedMemory {
  /** The memory, as a descriptor for a VMM to inherit; the caller closes it. Throws `internal`, `descriptors_exhausted`, `deadline_exceeded`. */
  open(path: string, signal: AbortSignal): Promise<FileHandle>;
  /** The file is about to be removed. MicroVMs that run keep what they have mapped. */
  forget(path: string): void;
  /** Lets go of all of it. */
  close(): void;
}

export interface SharedMemoryOptions {
  /** One that nobody has asked for so long is let go. */
  readonly idleMs: number;
  /** Of those that nobody waits for, the one that was asked for longest ago goes when there are more. */
  readonly maxHeld: number;
}

export const DEFAULT_SHARED_MEMORY: SharedMemoryOptions = { idleMs: 10 * 60_000, maxHeld: 8 };

const FILL_TIMEOUT_MS = 60_000;
const ANSWER_MAX_CHARS = 200;

/** 319 is memfd_create with MFD_CLOEXEC and MFD_ALLOW_SEALING, 1033 F_ADD_SEALS with all four; of x86-64. */
const HOLDER = `
use strict;
chomp(my $path = <STDIN>);
my $name = "wrenn-memory";
my $fd = syscall(319, $name, 3);
die "memfd_create: $!" if $fd < 0;
open(my $out, "+<&=", $fd) or die "memfd: $!";
open(my $in, "<:raw", $path) or die "$path: $!";
my $size = -s $in;
truncate($out, $size) or die "truncate: $!";
my $at = 0;
while ($at < $size) {
  my $data = sysseek($in, $at, 3);
  last unless defined $data;
  my $hole = sysseek($in, $data, 4);
  sysseek($in, $data, 0) && sysseek($out, $data, 0) or die "seek: $!";
  for (my $left = $hole - $data; $left > 0; ) {
    my $read = sysread($in, my $bytes, $left > 1048576 ? 1048576 : $left);
    die "$path: $!" unless $read;
    my $written = syswrite($out, $bytes);
    die "memfd: $!" unless defined $written && $written == $read;
    $left -= $read;
  }
  $at = $hole;
}
fcntl($out, 1033, 15) or die "seal: $!";
$| = 1;
print "fd $fd\\n";
<STDIN>;
`;

interface Holder {
  readonly path: string;
  /** Of the sealed memory, in /proc. */
  readonly ready: Promise<string>;
  /** How many wait for it, or open it: none of them is taken away. */
  users: number;
  idle: NodeJS.Timeout | undefined;
  end(): void;
}

export function createSharedMemory({ idleMs, maxHeld }: SharedMemoryOptions): SharedMemory {
  /** In the order in which they were last asked for. */
  const holders = new Map<string, Holder>();

  const drop = (holder: Holder): void => {
    clearTimeout(holder.idle);
    if (holders.get(holder.path) === holder) holders.delete(holder.path);
    holder.end();
  };

  /** For the caller to give back. */
  const take = (path: string): Holder => {
    const found = holders.get(path);
    const holder = found ?? startHolder(path, () => drop(holder));
    holders.delete(path);
    holders.set(path, holder);
    clearTimeout(holder.idle);
    holder.users += 1;
    return holder;
  };
  const giveBack = (holder: Holder): void => {
    holder.users -= 1;
    if (holder.users > 0 || holders.get(holder.path) !== holder) return;
    holder.idle = setTimeout(() => drop(holder), idleMs).unref();
    const unused = [...holders.values()].filter(({ users }) => users === 0);
    for (const oldest of unused.slice(0, Math.max(0, holders.size - maxHeld))) drop(oldest);
  };

  return {
    async open(path, signal) {
      const holder = take(path);
      try {
        const link = await withinMs(FILL_TIMEOUT_MS, 'Sharing the memory', holder.ready);
        throwIfAborted(signal);
        return await open(link, 'r+');
      } catch (error) {
        if (!signal.aborted) drop(holder);
        throw error;
      } finally {
        giveBack(holder);
      }
    },
    forget(path) {
      const holder = holders.get(path);
      if (holder !== undefined) drop(holder);
    },
    close() {
      for (const holder of [...holders.values()]) drop(holder);
    },
  };
}

/** `onEnd` when it is gone by itself. */
function startHolder(path: string, onEnd: () => void): Holder {
  const child = spawnPiped('/usr/bin/perl', ['-e', HOLDER], {
    cwd: '/',
    env: plainEnvironment(),
  });
  child.unref();
  child.once('exit', onEnd);
  child.stdin.on('error', () => {});
  child.stdin.write(`${path}\n`);
  const ready = fdOf(child).then((fd) => `/proc/${child.pid}/fd/${fd}`);
  // Whoever waits is told; without anybody it is no error.
  ready.catch(() => {});
  return { path, ready, users: 0, idle: undefined, end: () => void child.kill('SIGKILL') };
}

function fdOf(child: ChildProcessByStdio<Writable, Readable, Readable>): Promise<number> {
  return new Promise((resolve, reject) => {
    let [said, complaint] = ['', ''];
    const fail = (cause?: unknown): void =>
      reject(
        new WrennError('internal', `Memory could not be shared: ${complaint || 'perl ended'}`, { cause }),
      );
    child.stderr.on('data', (chunk: Buffer) => {
      complaint = (complaint + chunk.toString('utf8')).slice(0, ANSWER_MAX_CHARS);
    });
    child.stdout.on('data', (chunk: Buffer) => {
      said = (said + chunk.toString('latin1')).slice(0, ANSWER_MAX_CHARS);
      const fd = /^fd (\d{1,4})\n/.exec(said)?.[1];
      if (fd !== undefined) resolve(Number(fd));
    });
    child.once('error', fail);
    child.once('exit', () => fail());
  });
}
