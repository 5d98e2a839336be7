import { WrennError } from '@wrenn/protocol';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createIndex, indexBytes, parseIndex, TRAILER_BYTES } from './delta-index.ts';
import { PAGE_BYTES } from './process.ts';

const PAGES = 5000;
const SIZE = PAGES * PAGE_BYTES;

const pages = fc
  .uniqueArray(fc.record({ page: fc.nat(PAGES - 1), isZero: fc.boolean() }), {
    selector: ({ page }) => page,
    maxLength: 200,
  })
  .map((all) => all.sort((a, b) => a.page - b.page));

function encode(all: readonly { page: number; isZero: boolean }[]): { bytes: Buffer; fileBytes: number } {
  const index = createIndex();
  for (const { page, isZero } of all) index.add(page, isZero);
  const bytes = index.encode(SIZE);
  const kept = all.filter(({ isZero }) => !isZero).length;
  return { bytes, fileBytes: kept * PAGE_BYTES + bytes.length };
}

/** `bytes` is the end of a file; what stands before it there is nobody's. */
function parse(bytes: Buffer, fileBytes: number, memoryBytes = SIZE) {
  const end = Buffer.concat([Buffer.alloc(Math.max(0, fileBytes - bytes.length)), bytes]);
  const trailerAt = end.length - TRAILER_BYTES;
  const length = indexBytes(end.subarray(trailerAt), fileBytes, memoryBytes);
  return [...parseIndex(end.subarray(Math.max(0, trailerAt - length), trailerAt), fileBytes, memoryBytes)];
}

describe('the index of a delta', () => {
  it('says of every page what was said of it, in as few runs as there are', () => {
    fc.assert(
      fc.property(pages, (all) => {
        const { bytes, fileBytes } = encode(all);
        const runs = parse(bytes, fileBytes);
        const told = runs.flatMap(({ first, count, isZero }) =>
          Array.from({ length: count }, (_, i) => ({ page: first + i, isZero })),
        );
        expect(told).toEqual(all);
        for (const [i, { first, count, isZero }] of runs.entries()) {
          const next = runs[i + 1];
          expect(next?.first === first + count && next.isZero === isZero).toBe(false);
        }
      }),
    );
  });

  it('takes as much room as it is long, however scattered the pages are', () => {
    const [runs, each] = [1_000_000, 8];
    const index = createIndex();
    const before = process.memoryUsage();
    for (let n = 0; n < runs; n += 1) index.add(2 * n, n % 3 === 0);
    const after = process.memoryUsage();
    const grown = after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers;
    expect(grown).toBeLessThan(5 * runs * each);
    expect(index.encode(2 * runs * PAGE_BYTES).length).toBe(runs * each + TRAILER_BYTES);
  });

  it('is refused where anything of it is changed, cut off, or of other memory; never misread', () => {
    fc.assert(
      fc.property(pages, fc.nat(), fc.integer({ min: 1, max: 255 }), (all, where, change) => {
        const { bytes, fileBytes } = encode(all);
        const expected = parse(bytes, fileBytes);
        const changed = Buffer.from(bytes);
        const at = where % bytes.length;
        changed[at] = (changed[at] ?? 0) ^ change;
        // A run may have become another that is as good: the hash of the file is there for that.
        const outcome = attempt(() => parse(changed, fileBytes));
        if (outcome !== undefined) expect(outcome.every(fits)).toBe(true);
        if (at >= bytes.length - TRAILER_BYTES) expect(outcome).toBeUndefined();
        expect(attempt(() => parse(bytes, fileBytes - 1))).toBeUndefined();
        expect(attempt(() => parse(bytes, fileBytes, SIZE + PAGE_BYTES))).toBeUndefined();
        expect(attempt(() => parse(bytes, fileBytes))).toEqual(expected);
      }),
    );
  });

  it('is data or a short error, whatever the bytes are', () => {
    const bytes = fc.uint8Array({ minLength: TRAILER_BYTES, maxLength: 400 });
    fc.assert(
      fc.property(bytes, fc.nat(100_000), (raw, fileBytes) => {
        const outcome = attempt(() => parse(Buffer.from(raw), fileBytes));
        expect(outcome?.every(fits) ?? true).toBe(true);
      }),
    );
    expect(attempt(() => parseIndex(Buffer.alloc(8), TRAILER_BYTES + 8, SIZE))).toBeUndefined();
  });

  function fits({ first, count }: { first: number; count: number }): boolean {
    return count > 0 && first + count <= PAGES;
  }
  function attempt<T>(work: () => T): T | undefined {
    try {
      return work();
    } catch (error) {
      if (error instanceof WrennError && error.code === 'snapshot_corrupt') return undefined;
      throw error;
    }
  }
});
