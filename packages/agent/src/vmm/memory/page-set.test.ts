import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createPageSet } from './page-set.ts';
import { RUN_PAGES } from './process.ts';

const PAGES = 1003;

describe('a set of pages', () => {
  it('tells the pages that were added, in runs that are in order, apart and bounded', () => {
    const run = fc.tuple(fc.nat(PAGES + 5), fc.nat(600));
    fc.assert(
      fc.property(fc.array(run, { maxLength: 8 }), (runs) => {
        const set = createPageSet(PAGES);
        const expected = new Set<number>();
        for (const [first, count] of runs) {
          set.add(first, count);
          for (let page = first; page < Math.min(first + count, PAGES); page++) expected.add(page);
        }
        const told: number[] = [];
        for (const { first, count } of createPageSet(PAGES, set).runs()) {
          expect(count).toBeGreaterThan(0);
          expect(count).toBeLessThanOrEqual(RUN_PAGES);
          for (let page = first; page < first + count; page++) told.push(page);
        }
        expect(told).toEqual([...expected].sort((a, b) => a - b));
        for (const page of [0, 7, 8, PAGES - 1, PAGES]) expect(set.has(page)).toBe(expected.has(page));
      }),
    );
  });
});
