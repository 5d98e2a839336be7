/** Of pages in a file, as Firecracker writes them, and put back into a process that has its memory in two places. */
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { applyDelta, writeDelta, writeDeltaOfFile } from './delta.ts';
import { createPageSet } from './page-set.ts';
import { PAGE_BYTES, readMemory } from './process.ts';
import { pageOf, range, withMapped, writePages, ZERO } from './testing/mapped.ts';

const never = new AbortController().signal;
const SIZE = 64 * 1024 * 1024;
const PAGES = SIZE / PAGE_BYTES;
let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wr-delta-'));
});
afterEach(() => rm(dir, { recursive: true }));

it('has what was written, and as zero only what is known to have changed', async () => {
  const path = (name: string): string => join(dir, name);
  const base = new Map([...range(0, 600), ...range(9000, 300)].map((page) => [page, pageOf(page)]));
  await writePages(path('base'), SIZE, base);
  const model = new Map(base);
  const changed = createPageSet(PAGES);
  // What was read of the process: data over data and over a hole, and zero over both, which is left out of the file.
  const read = [...range(100, 300), ...range(5000, 20), PAGES - 1];
  const zeroed = [...range(500, 10), ...range(6000, 5)];
  const file = new Map<number, Buffer>();
  for (const page of read) file.set(page, pageOf(-page));
  for (const page of [...read, ...zeroed]) changed.add(page, 1);
  // What the VMM wrote over it: a page of those, one that became zero, and two that are new.
  file.set(105, pageOf(-1105)).set(106, ZERO).set(9100, pageOf(-9100)).set(7000, pageOf(-7000));
  // Near others, so that the hole between them may be told as data: it stays the base's.
  file.set(9110, pageOf(-9110));
  for (const [page, bytes] of file) model.set(page, bytes);
  for (const page of [...zeroed, 106]) model.set(page, ZERO);
  await writePages(path('file'), SIZE, file);

  const source = { path: path('file'), sizeBytes: SIZE, changed };
  const written = await writeDeltaOfFile(source, path('delta'), { basePath: path('base'), signal: never });
  expect(written).toMatchObject({ writtenPages: file.size - 1, zeroedPages: 10 + 1 });
  expect((await stat(path('delta'))).size).toBeLessThan((file.size + 5) * PAGE_BYTES);

  await withMapped(SIZE, path('base'), async (mapped) => {
    // The parts of a memory need not be next to one another for whoever reads them: a border in a run will do.
    const border = 200 * PAGE_BYTES;
    const parts = [
      { address: mapped.address, sizeBytes: border },
      { address: mapped.address + border, sizeBytes: SIZE - border },
    ];
    const place = { ...mapped, parts };
    await applyDelta(path('delta'), place, never);
    const memory = Buffer.alloc(SIZE);
    await readMemory(mapped.memory, memory, mapped.address);
    for (let page = 0; page < PAGES; page++) {
      const bytes = memory.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
      if (!bytes.equals(model.get(page) ?? ZERO)) expect.fail(`page ${page} is another`);
    }
    // Again the same, read from the process.
    await writeDelta(place, path('again'), { basePath: path('base'), signal: never });
    expect((await readFile(path('again'))).equals(await readFile(path('delta')))).toBe(true);
  });
});
