/**
 * Randomness from the kernel, for each value anew. Generators in this process (`Math.random`, node:crypto, WebCrypto)
 * keep a state, and a snapshot keeps it with the memory: two clones would hand out the same values. The kernel's is
 * reseeded in each clone before anybody speaks to it; see `reseedKernel`.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import type { Libc } from './libc.ts';

const DEVICE = '/dev/urandom';
const RNDRESEEDCRNG = 0x5207;

/** `bytes` random bytes in hexadecimal. */
export function randomHex(bytes: number): string {
  const fd = openSync(DEVICE, 'r');
  try {
    const buffer = Buffer.alloc(bytes);
    // Of up to 256 bytes the kernel never gives fewer than asked for (random(4)).
    if (readSync(fd, buffer) !== bytes) throw new Error(`${DEVICE} gave too few bytes`);
    return buffer.toString('hex');
  } finally {
    closeSync(fd);
  }
}

/**
 * Mixes the bytes into the kernel's pool and makes it derive a new key from the pool. All that is read after this
 * depends on them: the request raises the generation that each CPU's generator, and each batch of numbers that the
 * kernel keeps for itself, compares with its own before it gives anything out (drivers/char/random.c, 5.18 and later).
 * A write alone would wait for the next reseed, up to a minute away. The bytes are not credited as entropy: a machine
 * that has been snapshotted has long had enough of that.
 */
export function reseedKernel(libc: Libc, entropy: Uint8Array): void {
  const fd = openSync(DEVICE, 'r+');
  try {
    if (writeSync(fd, entropy) !== entropy.length) throw new Error(`${DEVICE} took too few bytes`);
    const result = libc.raw('ioctl', fd, RNDRESEEDCRNG);
    if (result === 0) return;
    // Not yet seeded for the first time, as right after a boot: to read makes it gather what it lacks.
    if (result === -constants.errno.ENODATA) readSync(fd, new Uint8Array(1));
    libc.call('ioctl', DEVICE, fd, RNDRESEEDCRNG);
  } finally {
    closeSync(fd);
  }
}
