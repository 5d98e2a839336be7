/**
 * When memory runs out, the kernel is to kill what users run, and envd last of all. The score belongs
 * to a process and is inherited, so a child is started while envd wears its original score.
 */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { errnoCode } from './errno.ts';

export interface OomScore {
  /** Wears the original score, for the child that is started next. */
  lend(): void;
  takeBack(): void;
}

const PATH = '/proc/self/oom_score_adj';
const NEVER_KILL = '-1000';

/** Protects this process from now on; without the privilege for it, nothing happens then or later. */
export function protectFromOomKiller(): OomScore {
  const none: OomScore = { lend: () => {}, takeBack: () => {} };
  let file: number | undefined;
  try {
    const original = readFileSync(PATH, 'utf8').trim();
    file = openSync(PATH, 'w');
    const open = file;
    writeSync(open, NEVER_KILL, 0);
    return {
      lend: () => {
        writeSync(open, original, 0);
      },
      takeBack: () => {
        writeSync(open, NEVER_KILL, 0);
      },
    };
  } catch (error) {
    if (file !== undefined) closeSync(file);
    console.error(`envd: not protected from the OOM killer: ${errnoCode(error) ?? error}`);
    return none;
  }
}
