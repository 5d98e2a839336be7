import { mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createSharedMemory, type SharedMemory } from './shared.ts';

const never = new AbortController().signal;
const MIB = 1024 * 1024;
let dir: string;
let shared: SharedMemory;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wr-shared-'));
  shared = createSharedMemory({ idleMs: 60_000, maxHeld: 2 });
});
afterEach(async () => {
  shared.close();
  await rm(dir, { recursive: true });
});

/** Sparse: data at the beginning, in the middle, or at the end. */
async function makeMemory(name: string, ...dataAtMib: number[]): Promise<string> {
  const path = join(dir, name);
  await writeFile(path, '');
  const file = await open(path, 'r+');
  await file.truncate(8 * MIB);
  for (const at of dataAtMib) await file.write(Buffer.alloc(MIB, name), 0, MIB, at * MIB);
  await file.close();
  return path;
}

it('opens for writing, cannot be written, and has the bytes and the holes of the file', async () => {
  for (const places of [[0, 3, 7], [2], []]) {
    const name = `m${places.length}`;
    const file = await shared.open(await makeMemory(name, ...places), never);
    try {
      await expect(file.write(Buffer.from('x'), 0, 1, 0)).rejects.toMatchObject({ code: 'EPERM' });
      await expect(file.truncate(0)).rejects.toMatchObject({ code: 'EPERM' });
      const { size, blocks } = await file.stat();
      expect(size).toBe(8 * MIB);
      expect(blocks * 512).toBe(places.length * MIB);
      for (let at = 0; at < 8; at++) {
        const { buffer } = await file.read(Buffer.alloc(MIB), 0, MIB, at * MIB);
        expect(buffer.equals(Buffer.alloc(MIB, places.includes(at) ? name : 0))).toBe(true);
      }
    } finally {
      await file.close();
    }
  }
});

it('is filled once for as many as ask, and lets go of the one that was asked for longest ago', async () => {
  const [a, b, c] = await Promise.all(['a', 'b', 'c'].map((name) => makeMemory(name, 1)));
  const inodeOf = async (path = ''): Promise<number> => {
    const file = await shared.open(path, never);
    const { ino } = await file.stat();
    await file.close();
    return ino;
  };
  const [first, again] = await Promise.all([inodeOf(a), inodeOf(a)]);
  expect(again).toBe(first);
  await inodeOf(b);
  await inodeOf(c);
  const kept = await shared.open(b ?? '', never);
  expect(await inodeOf(a)).not.toBe(first);
  // What was opened stays, whoever held it.
  shared.close();
  expect((await kept.read(Buffer.alloc(1), 0, 1, MIB)).buffer.toString()).toBe('b');
  await kept.close();
});

it('takes nothing away that somebody waits for, however many there are', async () => {
  const paths = await Promise.all(['a', 'b', 'c', 'd', 'e'].map((name) => makeMemory(name, 1)));
  const files = await Promise.all(paths.map((path) => shared.open(path, never)));
  const first = await Promise.all(files.map(async (file) => (await file.stat()).ino));
  await Promise.all(files.map((file) => file.close()));
  const again = await Promise.all(
    paths.slice(-2).map(async (path) => {
      const file = await shared.open(path, never);
      const { ino } = await file.stat();
      await file.close();
      return ino;
    }),
  );
  expect(new Set(first).size).toBe(5);
  expect(again.filter((ino) => first.includes(ino))).toHaveLength(2);
});

it('tells why it could not be', async () => {
  await expect(shared.open(join(dir, 'missing'), never)).rejects.toMatchObject({
    code: 'internal',
    message: expect.stringContaining('No such file'),
  });
  const path = await makeMemory('a', 0);
  await expect(shared.open(path, AbortSignal.abort())).rejects.toMatchObject({ code: 'cancelled' });
  expect(await readdir(dir)).toEqual(['a']);
});
