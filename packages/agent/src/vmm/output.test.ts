import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  closeSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  createRing,
  FILE_LIMIT_BYTES,
  linesOf,
  type OutputPaths,
  openFifoForVmm,
  RING_BYTES,
  readOutput,
} from './output.ts';

let dir: string;
let paths: OutputPaths;
const problems: unknown[] = [];
const onProblem = (error: unknown) => void problems.push(error);

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-fc-out-'));
  paths = { fifo: join(dir, 'console.fifo'), file: join(dir, 'console.log') };
  execFileSync('mkfifo', [paths.fifo]);
  problems.length = 0;
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe('bounded output', () => {
  it('reads all that was written before the last writer went', async () => {
    const writer = openFifoForVmm(paths.fifo);
    writeSync(writer, 'one\r\ntwo\n');
    const reader = await readOutput(paths, onProblem);
    writeSync(writer, 'three\nfo');
    closeSync(writer);
    await reader.ended;
    expect(reader.tail(3)).toEqual(['two', 'three', 'fo']);
    expect(reader.tail(0)).toEqual([]);
    expect(readFileSync(paths.file, 'utf8')).toBe('one\r\ntwo\nthree\nfo');
    expect(problems).toEqual([]);
  });

  it('drops what nobody reads instead of blocking, and goes on with a new reader', async () => {
    const writer = openFifoForVmm(paths.fifo);
    const first = await readOutput(paths, onProblem);
    writeSync(writer, 'before\n');
    await expect.poll(() => first.tail(9)).toEqual(['before']);
    first.close();
    await first.ended;
    // No reader but the writer itself: writes neither fail for a broken pipe nor wait.
    let accepted = 0;
    expect(() => {
      for (let i = 0; i < 1_000; i += 1) accepted += writeSync(writer, 'x'.repeat(1023).concat('\n'));
    }).toThrowError(expect.objectContaining({ code: 'EAGAIN' }));
    expect(accepted).toBe(64 * 1024);
    const second = await readOutput(paths, onProblem);
    await expect.poll(() => second.tail(2)).toHaveLength(2);
    await expect.poll(() => statSync(paths.file).size).toBe(64 * 1024 + 7);
    closeSync(writer);
    await second.ended;
    expect(problems).toEqual([]);
  });

  it('loses nothing that it took, when the agent lets go between two reads', async () => {
    const writer = openFifoForVmm(paths.fifo);
    const reader = await readOutput(paths, onProblem);
    // A chunk after which it pauses for some 200 ms; the next one waits in the stream meanwhile.
    writeSync(writer, `${'x'.repeat(50_000)}\n`);
    await expect.poll(() => reader.tail(1)).toHaveLength(1);
    writeSync(writer, 'last words\n');
    await new Promise((resolve) => setTimeout(resolve, 50));
    reader.close();
    expect(reader.tail(1)).toEqual(['last words']);
    expect(readFileSync(paths.file, 'utf8')).toMatch(/x\nlast words\n$/);
    reader.close();
    await reader.ended;
    closeSync(writer);
    expect(problems).toEqual([]);
  });

  it('remembers after a restart, and keeps the file below its limit', async () => {
    const fill = Buffer.from(`${'y'.repeat(99)}\n`.repeat((FILE_LIMIT_BYTES - 1_000) / 100));
    writeFileSync(paths.file, fill);
    appendFileSync(paths.file, 'the end\n');
    const writer = openFifoForVmm(paths.fifo);
    const reader = await readOutput(paths, onProblem);
    expect(reader.tail(1)).toEqual(['the end']);
    writeSync(writer, `${'z'.repeat(2_000)}\nlast\n`);
    closeSync(writer);
    await reader.ended;
    expect(statSync(paths.file).size).toBe(RING_BYTES);
    expect(readFileSync(paths.file, 'utf8')).toMatch(/the end\nz{2000}\nlast\n$/);
    expect(reader.tail(1)).toEqual(['last']);
  });

  it('follows no link and reads no other kind of file', async () => {
    const secret = join(dir, 'secret');
    writeFileSync(secret, 'password\n');
    symlinkSync(secret, paths.file);
    const writer = openFifoForVmm(paths.fifo);
    const reader = await readOutput(paths, onProblem);
    writeSync(writer, 'hello\n');
    closeSync(writer);
    await reader.ended;
    expect(reader.tail(9)).toEqual(['hello']);
    expect(readFileSync(secret, 'utf8')).toBe('password\n');
    expect(problems).toHaveLength(1);

    rmSync(paths.fifo);
    symlinkSync(secret, paths.fifo);
    await expect(readOutput(paths, onProblem)).rejects.toMatchObject({ code: 'ELOOP' });
    rmSync(paths.fifo);
    writeFileSync(paths.fifo, '');
    await expect(readOutput(paths, onProblem)).rejects.toMatchObject({ code: 'internal' });
  });

  it('a ring keeps the last bytes, in order', () => {
    const chunks = fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 20 });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 50 }), chunks, (size, pushed) => {
        const ring = createRing(size);
        for (const chunk of pushed) ring.push(chunk);
        expect(ring.bytes()).toEqual(Buffer.concat(pushed).subarray(-size));
      }),
    );
  });

  it('lines are few, short and printable, whatever the guest sends', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 500 }), fc.integer({ min: 0, max: 5 }), (bytes, maxLines) => {
        const lines = linesOf(bytes, maxLines);
        expect(lines.length).toBeLessThanOrEqual(maxLines);
        for (const line of lines) expect(line).not.toMatch(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u);
      }),
    );
    expect(linesOf(Buffer.from('a\tb\u001b[31m\r\r\n'), 9)).toEqual(['a    b\\x1b[31m']);
  });
});
