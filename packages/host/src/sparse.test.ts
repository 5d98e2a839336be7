import { createHash } from 'node:crypto';
import { type FileHandle, mkdtemp, open, readFile, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { dataExtents, hashSparse, readSparse, writeSparse } from './sparse.ts';

const PAGE = 4096;
const MIB = 1024 * 1024;
let dir: string;
let made = 0;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wr-sparse-'));
});
afterAll(() => rm(dir, { recursive: true }));

async function make(
  sizeBytes: number,
  data: readonly (readonly [at: number, bytes: Buffer])[],
): Promise<string> {
  const path = join(dir, `file-${++made}`);
  const file = await open(path, 'wx');
  await file.truncate(sizeBytes);
  for (const [at, bytes] of data) await file.write(bytes, 0, bytes.length, at);
  await file.close();
  return path;
}

describe('the data of a sparse file', () => {
  it('is where it was written, small holes included and large ones not', async () => {
    const one = Buffer.alloc(PAGE, 1);
    const path = await make(64 * MIB, [
      [0, one],
      [16 * PAGE, one],
      [40 * MIB, one],
      [64 * MIB - PAGE, one],
    ]);
    const extents = await dataExtents(path);
    expect(extents).toEqual([
      { start: 0, end: 17 * PAGE },
      { start: 40 * MIB, end: 40 * MIB + PAGE },
      { start: 64 * MIB - PAGE, end: 64 * MIB },
    ]);
    expect(await dataExtents(await make(MIB, []))).toEqual([]);
    await expect(dataExtents(join(dir, 'missing'))).rejects.toMatchObject({ code: 'command_failed' });
  });

  it('may be all of one that cannot be asked', async () => {
    // A directory in memory refuses SEEK_DATA, and has a size.
    const refuses = await mkdtemp('/dev/shm/wrenn-sparse-');
    try {
      expect(await dataExtents(refuses)).toEqual([{ start: 0, end: (await stat(refuses)).size }]);
    } finally {
      await rm(refuses, { recursive: true });
    }
  });
});

const page = fc.record({ at: fc.nat(300), value: fc.nat(3) });

describe('a sparse file in memory', () => {
  const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };

  it('is written as it was read, without its zeroes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(page, { maxLength: 12 }), fc.nat(PAGE - 1), async (pages, odd) => {
        const size = 300 * PAGE + odd;
        const path = await make(
          size,
          pages.map(({ at, value }) => [
            at * PAGE,
            Buffer.alloc(Math.min(PAGE, Math.max(0, size - at * PAGE)), value),
          ]),
        );
        const content = await readSparse(path, 4 * MIB);
        if (content === undefined) throw new Error('it is not that large');
        const copy = join(dir, `copy-${++made}`);
        await writeSparse(copy, content, owner);
        expect((await readFile(copy)).equals(await readFile(path))).toBe(true);
        const { mode, blocks } = await stat(copy);
        expect(mode & 0o777).toBe(0o600);
        expect(blocks).toBeLessThanOrEqual((await stat(path)).blocks);
        await expect(writeSparse(copy, content, owner)).rejects.toMatchObject({ code: 'EEXIST' });
      }),
      { numRuns: 20 },
    );
  });

  it('is written whole where the disk takes a part at a time, or not at all', async () => {
    const path = await make(4 * MIB, [[MIB, Buffer.alloc(MIB, 1)]]);
    const content = await readSparse(path, 2 * MIB);
    if (content === undefined) throw new Error('it is not that large');
    const probe = await open(path, 'r');
    const handle: FileHandle = Object.getPrototypeOf(probe);
    await probe.close();
    const write: FileHandle['write'] = handle.write;
    let room = Number.POSITIVE_INFINITY;
    const spy = vi.spyOn(handle, 'write').mockImplementation(async function (
      this: FileHandle,
      bytes: Buffer,
      offset: number,
      length: number,
      position: number,
    ) {
      const part = Math.min(length, 100_000, room);
      if (part === 0) throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' });
      room -= part;
      return Reflect.apply(write, this, [bytes, offset, part, position]);
    } as never);
    try {
      const copy = join(dir, `copy-${++made}`);
      await writeSparse(copy, content, owner);
      expect((await readFile(copy)).equals(await readFile(path))).toBe(true);
      room = 300_000;
      const unlucky = writeSparse(join(dir, `copy-${++made}`), content, owner);
      await expect(unlucky).rejects.toMatchObject({ code: 'ENOSPC' });
    } finally {
      spy.mockRestore();
    }
  });

  it('is none where there is more of it than may be', async () => {
    const path = await make(64 * MIB, [[32 * MIB, Buffer.alloc(MIB, 1)]]);
    expect(await readSparse(path, MIB - 1)).toBeUndefined();
    expect((await readSparse(path, 2 * MIB))?.runs).toMatchObject([{ start: 32 * MIB }]);
  });
});

describe('the hash of a sparse file', () => {
  it('is that of its bytes, whichever zeroes of it are holes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(page, { maxLength: 12 }), fc.nat(PAGE - 1), async (pages, odd) => {
        const size = 300 * PAGE + odd;
        const whole = Buffer.alloc(301 * PAGE);
        for (const { at, value } of pages) whole.fill(value, at * PAGE, (at + 1) * PAGE);
        const content = whole.subarray(0, size);
        const sparse = await make(
          size,
          pages.map(({ at, value }) => [
            at * PAGE,
            Buffer.alloc(Math.min(PAGE, Math.max(0, size - at * PAGE)), value),
          ]),
        );
        const dense = await make(size, [[0, content]]);
        const hash = await hashSparse(sparse);
        expect(hash).toBe(await hashSparse(dense));
        expect(hash).toBe(expected(content));
        await rm(sparse);
        await rm(dense);
      }),
      { numRuns: 15 },
    );
  });

  it('is another for one bit, one place and one size', async () => {
    const bytes = Buffer.alloc(PAGE, 7);
    const hash = await hashSparse(await make(8 * MIB, [[4 * MIB, bytes]]));
    const flipped = Buffer.from(bytes);
    flipped[100] = 6;
    expect(await hashSparse(await make(8 * MIB, [[4 * MIB, flipped]]))).not.toBe(hash);
    expect(await hashSparse(await make(8 * MIB, [[4 * MIB + PAGE, bytes]]))).not.toBe(hash);
    const longer = await make(8 * MIB, [[4 * MIB, bytes]]);
    await truncate(longer, 8 * MIB + 1);
    expect(await hashSparse(longer)).not.toBe(hash);
  });

  /** The same in a few lines, of bytes in memory. */
  function expected(content: Buffer): string {
    const hash = createHash('sha256').update(u64(content.length));
    let isRun = false;
    for (let at = 0; at < content.length; at += PAGE) {
      const bytes = content.subarray(at, at + PAGE);
      const isZero = bytes.every((byte) => byte === 0);
      if (!isZero && !isRun) hash.update(u64(at / PAGE));
      if (!isZero) hash.update(bytes);
      isRun = !isZero;
    }
    return hash.digest('hex');
  }
  function u64(value: number): Buffer {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    return bytes;
  }
});
