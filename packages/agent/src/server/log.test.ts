import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createLogger } from './log.ts';

const MAX_BYTES = 4096;

describe('the log in a file', () => {
  let dir: string;
  let file: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'wrenn-log-'));
    file = join(dir, 'agent.log');
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const linesIn = (path: string) =>
    readFileSync(path, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line): unknown => JSON.parse(line).n);

  it('is begun anew, with one older file beside it, and no line is lost in between', () => {
    const log = createLogger({ level: 'info', file, maxFileBytes: MAX_BYTES });
    for (let n = 0; n < 1000; n += 1) log.info({ n }, 'größer');
    for (const path of [file, `${file}.1`]) {
      expect(statSync(path).size).toBeLessThanOrEqual(MAX_BYTES);
      expect(statSync(path).mode & 0o777).toBe(0o600);
    }
    const kept = [...linesIn(`${file}.1`), ...linesIn(file)];
    expect(kept).toEqual(Array.from(kept, (_, n) => 1000 - kept.length + n));
    // The next agent goes on where this one was.
    createLogger({ level: 'info', file, maxFileBytes: MAX_BYTES }).info({ n: 1000 }, 'größer');
    expect([...linesIn(`${file}.1`), ...linesIn(file)]).toContain(1000);
  });

  it('that cannot be begun anew loses lines, and touches nothing that is not its own', () => {
    mkdirSync(join(`${file}.1`, 'in the way'), { recursive: true });
    const log = createLogger({ level: 'info', file, maxFileBytes: MAX_BYTES });
    for (let n = 0; n < 100; n += 1) log.info({ n }, 'text');
    // Gets the number of a descriptor that was closed meanwhile, if one was.
    const others = [0, 1, 2].map((n) => join(dir, `other-${n}`));
    const fds = others.map((path) => openSync(path, 'w'));
    for (let n = 0; n < 100; n += 1) log.info({ n }, 'text');
    for (const fd of fds) writeSync(fd, 'mine');
    for (const fd of fds) closeSync(fd);
    for (const path of others) expect(readFileSync(path, 'utf8')).toBe('mine');
    expect(statSync(file).size).toBeLessThanOrEqual(MAX_BYTES);
    rmSync(`${file}.1`, { recursive: true });
    log.info({ n: 1 }, 'again');
    expect(linesIn(file)).toEqual([1]);
  });
});
