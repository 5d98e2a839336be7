/** What a copy leaves out, told as it goes on: a line each, and a count where they are too many to be read. */
import { printable } from '../output.ts';

export interface Skips {
  add(path: string, reason: string): void;
  /** Tells how many were left out beyond those that had a line. */
  end(): void;
}

export const A_LINK = 'a symbolic link';
export const NO_FILE = 'neither a file nor a directory';
export const IN_THE_WAY = 'something else is in its place';

const LINES_MAX = 20;

/** As JSON for scripts, whose errors are lines of it too. */
export function createSkips(write: (line: string) => void, json: boolean): Skips {
  let count = 0;
  return {
    add(path, reason) {
      count++;
      if (count > LINES_MAX) return;
      if (json) write(JSON.stringify({ skipped: { path, reason } }));
      else write(`wrenn: ${printable(path)} was not copied: ${printable(reason)}`);
    },
    end() {
      const more = count - LINES_MAX;
      if (more <= 0) return;
      if (json) write(JSON.stringify({ skipped: { more } }));
      else write(`wrenn: ${more} more ${more === 1 ? 'was' : 'were'} not copied`);
    },
  };
}
