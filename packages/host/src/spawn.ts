/** How programs are started whose streams are read and written. */
import { type ChildProcessByStdio, type SpawnOptionsWithoutStdio, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { WrennError } from '@wrenn/protocol';

/**
 * With pipes for all three streams. Throws `descriptors_exhausted`: for want of them Node gives a child without streams, and
 * tells why a moment later, to whoever listens.
 */
export function spawnPiped(
  program: string,
  args: readonly string[],
  options: SpawnOptionsWithoutStdio,
): ChildProcessByStdio<Writable, Readable, Readable> {
  const child = spawn(program, args, { ...options, shell: false, stdio: ['pipe', 'pipe', 'pipe'] });
  const streams: readonly (Readable | Writable | undefined)[] = [child.stdin, child.stdout, child.stderr];
  if (streams.every((stream) => stream !== undefined)) return child;
  child.once('error', () => {});
  throw new WrennError(
    'descriptors_exhausted',
    `${program} could not be started: no file descriptor is free.`,
    {
      hint: 'Raise the limit for open files (LimitNOFILE of a systemd unit, or ulimit -n).',
    },
  );
}
