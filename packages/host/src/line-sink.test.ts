import { execFileSync, spawn } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createLineSink } from './line-sink.ts';

const PIPE_BYTES = 64 * 1024;
const PAGE_BYTES = 4096;
/** To read all that a pipe has and all that waits for it. */
const ENOUGH_ROUNDS = 10;

let dir: string;
let fifo: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-sink-'));
  fifo = join(dir, 'fifo');
  execFileSync('mkfifo', [fifo]);
});
afterAll(() => rmSync(dir, { recursive: true }));

interface Pipe {
  readonly end: number;
  /** What is there. */
  read(bytes: number): string;
  closeReader(): void;
  close(): void;
}

/** No call on it waits. */
function openPipe(): Pipe {
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  const end = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
  return {
    end,
    read: (bytes) => {
      const buffer = Buffer.alloc(bytes);
      try {
        return buffer.toString('utf8', 0, readSync(reader, buffer));
      } catch {
        return '';
      }
    },
    closeReader: () => closeSync(reader),
    close: () => {
      closeSync(reader);
      closeSync(end);
    },
  };
}

const numbered = (n: number, bytes: number): string => `${`${n} `.padEnd(bytes - 1, '.')}\n`;

it('loses nothing of what a reader within the bound is late with', async () => {
  const pipe = openPipe();
  const write = createLineSink(pipe.end);
  const lines = Array.from({ length: 2000 }, (_, n) => numbered(n, 100));
  for (const line of lines) write(line);
  let read = '';
  // Nothing is written any more: what waits goes on by itself.
  await expect
    .poll(() => {
      read += pipe.read(PIPE_BYTES);
      return read.length;
    })
    .toBe(200_000);
  expect(read).toBe(lines.join(''));
  pipe.close();
});

it('passes whole lines on in their order, whoever reads how much of them', () => {
  const step = fc.oneof(
    fc.record({ write: fc.integer({ min: 10, max: 3 * PAGE_BYTES }) }),
    fc.record({ read: fc.integer({ min: 1, max: PIPE_BYTES }) }),
  );
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 100 }),
      fc.integer({ min: 0, max: PIPE_BYTES }),
      (steps, bound) => {
        const pipe = openPipe();
        try {
          const write = createLineSink(pipe.end, bound);
          const written: string[] = [];
          let read = '';
          for (const each of steps) {
            if ('read' in each) read += pipe.read(each.read);
            else {
              const line = numbered(written.length, each.write);
              written.push(line);
              write(line);
            }
          }
          const last = numbered(written.length, 10);
          for (let round = 0; round < ENOUGH_ROUNDS; round += 1) {
            write(last);
            read += pipe.read(PIPE_BYTES);
          }
          const kept = read.split(/(?<=\n)/).filter((line) => line !== '' && line !== last);
          expect(kept).toEqual(written.filter((line) => kept.includes(line)));
        } finally {
          pipe.close();
        }
      },
    ),
    { numRuns: 50 },
  );
});

it('loses lines above the bound, and has room again when they are read', () => {
  const pipe = openPipe();
  const write = createLineSink(pipe.end, 1000);
  for (let n = 0; n < 10_000; n += 1) write(numbered(n, 100));
  let read = '';
  for (let round = 0; round < ENOUGH_ROUNDS; round += 1) {
    read += pipe.read(PIPE_BYTES);
    write(numbered(10_000, 100));
  }
  const numbers = read.split('\n').map((line) => Number.parseInt(line, 10));
  expect(read.length).toBeLessThan(PIPE_BYTES + 1000 + ENOUGH_ROUNDS * 100);
  expect(numbers).toContain(10_000);
  pipe.close();
});

it('does without a reader, and on a full disk', () => {
  const full = openSync('/dev/full', 'w');
  const write = createLineSink(full);
  for (let n = 0; n < 3; n += 1) expect(() => write('line\n')).not.toThrow();
  closeSync(full);
  const pipe = openPipe();
  const toNobody = createLineSink(pipe.end);
  pipe.closeReader();
  expect(() => toNobody('line\n')).not.toThrow();
  closeSync(pipe.end);
});

describe('standard error that nobody reads', () => {
  /** Says on stdout that it has written more than any pipe takes. */
  const writeMuch = (before: string): string => `
    import { spawnSync } from 'node:child_process';
    import { createStderrSink } from './line-sink.ts';
    const write = createStderrSink();
    ${before}
    for (let n = 0; n < 20_000; n += 1) write('line '.repeat(20) + '\\n');
    console.log('written');
    process.exit();`;
  /** It is in nobody's way: what is written is waited for, and not the end of a program that hangs. */
  const run = async (script: string, stderr: 'pipe' | number): Promise<string> => {
    const resolveDir = import.meta.dirname;
    const { outputFiles } = await build({
      stdin: { contents: script, resolveDir },
      bundle: true,
      platform: 'node',
      format: 'esm',
      write: false,
    });
    const program = join(dir, 'program.mjs');
    writeFileSync(program, outputFiles[0]?.text ?? '');
    const child = spawn(process.execPath, [program], { stdio: ['ignore', 'pipe', stderr] });
    try {
      let said = '';
      child.stdout?.on('data', (chunk: Buffer) => {
        said += chunk.toString('utf8');
      });
      await expect.poll(() => said || child.exitCode, { timeout: 20_000 }).not.toBe(null);
      return said;
    } finally {
      child.kill('SIGKILL');
    }
  };

  it('keeps nobody waiting where it is a socket', async () => {
    expect(await run(writeMuch(''), 'pipe')).toBe('written\n');
  });

  it('keeps nobody waiting where it is a pipe, whatever others that have it make of it', async () => {
    const pipe = openPipe();
    // As each program does whose parent is Node.
    const makeItWait = "spawnSync('true', [], { stdio: 'inherit' });";
    expect(await run(writeMuch(''), pipe.end)).toBe('written\n');
    expect(await run(writeMuch(makeItWait), pipe.end)).toBe('written\n');
    pipe.close();
  });
});
