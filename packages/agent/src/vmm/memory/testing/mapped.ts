/** A process that maps memory: perl-base, which is on every Debian. What it writes is written through /proc. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { identify } from '@wrenn/host';
import { type MemoryPlace, PAGE_BYTES } from '../process.ts';

/** mmap(2) is 9; PROT_READ | PROT_WRITE is 3, MAP_PRIVATE 2, MAP_ANONYMOUS 32, MAP_NORESERVE 16384. Ends with its stdin. */
export const MAP = `
use strict;
my ($size, $path) = @ARGV;
my ($flags, $fd) = (16418, -1);
my $file;
if (defined $path) { open($file, "<", $path) or die "$path: $!"; ($flags, $fd) = (2, fileno($file)); }
my $address = syscall(9, 0, $size + 0, 3, $flags, $fd, 0);
die "mmap: $!" if $address == -1;
$| = 1;
print "$address\\n";
<STDIN>;
`;
export interface Perl {
  readonly pid: number;
  /** The number that it said first. */
  readonly said: number;
  kill(): void;
}

/** Ends with its stdin at the latest, and so with the test. */
export async function perl(program: string, ...args: string[]): Promise<Perl> {
  const child: ChildProcessByStdio<Writable, Readable, null> = spawn(
    '/usr/bin/perl',
    ['-e', program, ...args],
    {
      stdio: ['pipe', 'pipe', 'inherit'],
    },
  );
  for await (const line of createInterface(child.stdout)) {
    return { pid: child.pid ?? 0, said: Number(line), kill: () => void child.kill('SIGKILL') };
  }
  throw new Error('perl ended');
}

export interface Mapped extends MemoryPlace {
  readonly memory: FileHandle;
  /** Of its only part. */
  readonly address: number;
}

/** `path` is mapped privately; without it there is a file of nobody's. */
export async function withMapped(
  sizeBytes: number,
  path: string | undefined,
  work: (mapped: Mapped) => Promise<void>,
): Promise<void> {
  const {
    pid,
    said: address,
    kill,
  } = await perl(MAP, String(sizeBytes), ...(path === undefined ? [] : [path]));
  const { startTime = '' } = (await identify(pid)) ?? {};
  const memory = await open(`/proc/${pid}/mem`, 'r+');
  try {
    await work({ pid, startTime, address, sizeBytes, parts: [{ address, sizeBytes }], memory });
  } finally {
    await memory.close();
    kill();
  }
}

export const ZERO = Buffer.alloc(PAGE_BYTES);

/** Another for each seed, and never zero. */
export function pageOf(seed: number): Buffer {
  const bytes = createHash('sha512').update(`page ${seed}`).digest();
  return Buffer.concat(Array.from({ length: PAGE_BYTES / bytes.length }, () => bytes));
}

/** In the process, and in the model of what it has: pages that are not zero. */
export async function put(
  { memory, address }: Mapped,
  model: Map<number, Buffer>,
  page: number,
  bytes: Buffer,
): Promise<void> {
  await memory.write(bytes, 0, PAGE_BYTES, address + page * PAGE_BYTES);
  if (bytes.equals(ZERO)) model.delete(page);
  else model.set(page, bytes);
}

export async function writePages(
  path: string,
  sizeBytes: number,
  pages: ReadonlyMap<number, Buffer>,
): Promise<void> {
  const file = await open(path, 'wx');
  await file.truncate(sizeBytes);
  for (const [page, bytes] of pages) await file.write(bytes, 0, PAGE_BYTES, page * PAGE_BYTES);
  await file.close();
}

export const range = (from: number, count: number): number[] =>
  Array.from({ length: count }, (_, i) => from + i);
