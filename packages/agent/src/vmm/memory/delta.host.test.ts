import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { applyDelta, writeDelta } from './delta.ts';
import { PAGE_BYTES, readMemory } from './process.ts';
import { type Mapped, pageOf, put, range, withMapped, writePages, ZERO } from './testing/mapped.ts';

const never = new AbortController().signal;
const MIB = 1024 * 1024;
/** More than is looked at at once, which is 128 MiB. */
const SIZE = 132 * MIB;
const PAGES = SIZE / PAGE_BYTES;

let dir: string;
let basePath: string;
let deltaPath: string;
let model: Map<number, Buffer>;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wr-delta-'));
  basePath = join(dir, 'base');
  deltaPath = join(dir, 'delta');
  // Data at both ends, alone, in a long run, and on both sides of where the look is divided; holes between.
  const pages = [0, 7, ...range(1000, 700), ...range(32_760, 16), PAGES - 1];
  model = new Map(pages.map((page) => [page, pageOf(page)]));
  await writePages(basePath, SIZE, model);
});
afterEach(() => rm(dir, { recursive: true }));

const write = (mapped: Mapped, signal = never) => writeDelta(mapped, deltaPath, { basePath, signal });

/** All of the memory against the pages that are not zero. */
async function expectMemory({ memory, address }: Mapped): Promise<void> {
  const [actual, expected] = [createHash('sha256'), createHash('sha256')];
  const chunk = Buffer.alloc(MIB);
  for (let at = 0; at < SIZE; at += MIB) {
    await readMemory(memory, chunk, address + at);
    actual.update(chunk);
    for (let page = at / PAGE_BYTES; page < (at + MIB) / PAGE_BYTES; page++)
      expected.update(model.get(page) ?? ZERO);
  }
  expect(actual.digest('hex')).toBe(expected.digest('hex'));
}

describe('a delta', () => {
  it('is what has changed, as often as it is written, put back and written again', async () => {
    // Data to other data, data to zero, hole to data, hole to zero; runs of each longer than 256 pages.
    const changed = [0, ...range(1200, 300), 32_767, 32_768, PAGES - 1];
    const zeroed = [...range(1500, 100), 32_765, 32_770];
    const filled = [3, ...range(5000, 600), PAGES - 2];
    const zeroStill = [5, ...range(9000, 300)];
    const base = hash(await readFile(basePath));
    await withMapped(SIZE, basePath, async (mapped) => {
      for (const page of [...changed, ...filled]) await put(mapped, model, page, pageOf(-1 - page));
      for (const page of [...zeroed, ...zeroStill]) await put(mapped, model, page, ZERO);
      const written = await write(mapped);
      expect(written.writtenPages).toBe(changed.length + filled.length);
      expect(written.zeroedPages).toBe(zeroed.length);
      expect(written.changedPages).toBe(written.writtenPages + zeroed.length + zeroStill.length);
    });
    for (let generation = 0; generation < 3; generation++) {
      const earlier = deltaPath;
      await withMapped(SIZE, basePath, async (mapped) => {
        await applyDelta(earlier, mapped, never);
        // Only these are its own now, so that the next delta is one of the same file; what is the base's stays shared.
        deltaPath = join(dir, `again-${generation}`);
        const again = await write(mapped);
        expect(hash(await readFile(deltaPath))).toBe(hash(await readFile(earlier)));
        expect(again.changedPages).toBe(again.writtenPages + again.zeroedPages);
        await expectMemory(mapped);
        // What was changed goes back to zero, what was zeroed to something, and there is more.
        for (const page of range(1250, 20)) await put(mapped, model, page, ZERO);
        for (const page of range(1500, 10)) await put(mapped, model, page, pageOf(generation));
        for (const page of range(20_000 + 100 * generation, 50)) await put(mapped, model, page, pageOf(page));
        deltaPath = join(dir, `next-${generation}`);
        await write(mapped);
        await expectMemory(mapped);
      });
    }
    expect(hash(await readFile(basePath))).toBe(base);
    // The pages, and a little for where they belong.
    const { size } = await stat(deltaPath);
    expect(size).toBeLessThan((changed.length + filled.length + 200) * PAGE_BYTES);
  });

  it('is nearly nothing where nothing has changed', async () => {
    await withMapped(SIZE, basePath, async (mapped) => {
      expect(await write(mapped)).toEqual({ changedPages: 0, writtenPages: 0, zeroedPages: 0 });
      await applyDelta(deltaPath, mapped, never);
      await expectMemory(mapped);
    });
    expect((await stat(deltaPath)).size).toBe(32);
  });
});

describe('a delta that cannot be', () => {
  it('fails when it is aborted, when its name is taken, and when the process has ended', async () => {
    await withMapped(SIZE, basePath, async (mapped) => {
      await expect(write(mapped, AbortSignal.abort())).rejects.toMatchObject({ code: 'cancelled' });
      await expect(write(mapped)).rejects.toMatchObject({ code: 'EEXIST' });
      process.kill(mapped.pid, 'SIGKILL');
      // It may take its time to go: until then nothing has failed.
      const maps = () => readFile(`/proc/${mapped.pid}/maps`, 'utf8').catch(() => '');
      await expect.poll(maps, { timeout: 5_000 }).toBe('');
      deltaPath = join(dir, 'other');
      await expect(write(mapped)).rejects.toThrow();
    });
  });

  it('is of nobody else, and put into nobody else, who has got the number of a process that has ended', async () => {
    await withMapped(SIZE, basePath, async (mapped) => {
      const gone = { ...mapped, startTime: '1' };
      await expect(write(gone)).rejects.toMatchObject({ code: 'vmm_died' });
      expect((await stat(deltaPath)).size).toBe(0);
      deltaPath = join(dir, 'other');
      await put(mapped, model, 3, pageOf(3));
      await write(mapped);
      await put(mapped, model, 3, pageOf(4));
      await expect(applyDelta(deltaPath, gone, never)).rejects.toMatchObject({ code: 'vmm_died' });
      await expectMemory(mapped);
    });
  });

  it('is not put into memory of another size, nor where it is cut off or no delta at all', async () => {
    await withMapped(SIZE, basePath, async (mapped) => {
      for (const page of range(100, 30)) await put(mapped, model, page, pageOf(page));
      await write(mapped);
      const other = { ...mapped, sizeBytes: SIZE / 2 };
      await expect(applyDelta(deltaPath, other, never)).rejects.toMatchObject({ code: 'snapshot_corrupt' });
      const whole = await readFile(deltaPath);
      for (const length of [0, 10, 31, 32, PAGE_BYTES, whole.length - 1]) {
        await truncate(deltaPath, length);
        await expect(applyDelta(deltaPath, mapped, never)).rejects.toMatchObject({
          code: 'snapshot_corrupt',
        });
        await writeFile(deltaPath, whole);
      }
      await expectMemory(mapped);
      await expect(applyDelta(deltaPath, mapped, AbortSignal.abort())).rejects.toMatchObject({
        code: 'cancelled',
      });
    });
  });
});

function hash(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
