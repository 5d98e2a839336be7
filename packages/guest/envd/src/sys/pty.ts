/**
 * Pseudo-terminals, opened here and not by Bun.Terminal: that one reads its master as fast as it can,
 * this one only as fast as somebody takes the output.
 */
import { chownSync, closeSync, constants, openSync } from 'node:fs';
import type { Libc } from './libc.ts';

export interface Pty {
  readonly master: number;
  /** Open without being anybody's controlling terminal; the caller closes it once the child has it. */
  readonly slave: number;
  /** The slave's path, which a session leader opens to make it its controlling terminal. */
  readonly slavePath: string;
}

export interface PtySize {
  readonly cols: number;
  readonly rows: number;
}

const TIOCGPTN = 0x8004_5430;
const TIOCSPTLCK = 0x4004_5431;
const TIOCSWINSZ = 0x5414;

export function openPty(libc: Libc, size: PtySize, ownerUid: number): Pty {
  const { O_RDWR, O_NOCTTY, O_NONBLOCK } = constants;
  const master = openSync('/dev/ptmx', O_RDWR | O_NOCTTY | O_NONBLOCK);
  try {
    const number = new Int32Array(1);
    libc.call('ioctl', '/dev/ptmx', master, TIOCSPTLCK, number);
    libc.call('ioctl', '/dev/ptmx', master, TIOCGPTN, number);
    const slavePath = `/dev/pts/${number[0]}`;
    setPtySize(libc, master, size);
    // The group (tty) is that of the devpts mount; -1 leaves it.
    if (process.geteuid?.() === 0) chownSync(slavePath, ownerUid, -1);
    return { master, slavePath, slave: openSync(slavePath, O_RDWR | O_NOCTTY) };
  } catch (error) {
    closeSync(master);
    throw error;
  }
}

export function setPtySize(libc: Libc, master: number, size: PtySize): void {
  const winsize = new Uint8Array(Uint16Array.of(size.rows, size.cols, 0, 0).buffer);
  libc.call('ioctl', '/dev/ptmx', master, TIOCSWINSZ, winsize);
}
