/** Which pages of a guest's memory, as a bit for each. */
import { RUN_PAGES, type Run } from './process.ts';

export interface PageSet {
  add(first: number, count: number): void;
  has(page: number): boolean;
  /** In order; at most `RUN_PAGES` each. */
  runs(): Generator<Run>;
}

export function createPageSet(pages: number, from?: PageSet): PageSet {
  const bits = new Uint8Array(Math.ceil(pages / 8));
  const has = (page: number): boolean => ((bits[page >> 3] ?? 0) & (1 << (page & 7))) !== 0;
  const add = (first: number, count: number): void => {
    for (let page = first; page < Math.min(first + count, pages); page++) {
      bits[page >> 3] = (bits[page >> 3] ?? 0) | (1 << (page & 7));
    }
  };
  const set: PageSet = {
    add,
    has,
    *runs() {
      let first = -1;
      for (let page = 0; page <= pages; page++) {
        // Eight at once where there is nothing.
        if (first < 0 && (page & 7) === 0 && bits[page >> 3] === 0) {
          page += 7;
          continue;
        }
        const isIn = page < pages && has(page);
        if (first >= 0 && (!isIn || page - first === RUN_PAGES)) {
          yield { first, count: page - first };
          first = -1;
        }
        if (isIn && first < 0) first = page;
      }
    },
  };
  if (from !== undefined) for (const { first, count } of from.runs()) add(first, count);
  return set;
}
