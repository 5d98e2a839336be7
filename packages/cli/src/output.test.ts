import { Writable } from 'node:stream';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatBytes, formatDuration, formatRate, formatTable, printable, writeInTurn } from './output.ts';

describe('printable', () => {
  it('shows what would drive the terminal or forge a line', () => {
    expect(printable('a\x1b[2Jb\nc\u202ed')).toBe('a\\u{1b}[2Jb\\u{a}c\\u{202e}d');
  });

  it('leaves no control character, whatever comes', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary' }),
        (text) => !/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(printable(text)),
      ),
    );
  });
});

describe('formatTable', () => {
  it('aligns the columns, and a cell cannot add a row', () => {
    expect(
      formatTable(
        ['A', 'LONG'],
        [
          ['first', '1'],
          ['x\ny', '2'],
        ],
      ),
    ).toBe('A        LONG\nfirst    1\nx\\u{a}y  2\n');
  });
});

describe('durations and sizes', () => {
  it.each([
    [12.4, '12 ms'],
    [1234, '1.2 s'],
    [61_000, '1m01s'],
    [7_260_000, '2h01m'],
  ])('%d ms is %s', (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });

  it.each([
    [1, '1 KiB'],
    [5 * 1024 ** 2, '5 MiB'],
    [1.5 * 1024 ** 3, '1.5 GiB'],
  ])('%d bytes are %s', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });
});

it('formatRate shows a limit as what it is', () => {
  expect([65_536, 1_572_864, 2 * 1024 ** 3, 1_000_001].map(formatRate)).toEqual([
    '64 KiB/s',
    '1536 KiB/s',
    '2048 MiB/s',
    '1000001 B/s',
  ]);
});

describe('writeInTurn', () => {
  it('waits until there is room, and no longer for a stream that has failed', async () => {
    const written: (() => void)[] = [];
    const stream = new Writable({
      highWaterMark: 1,
      write: (_chunk, _encoding, done) => void written.push(done),
    });
    stream.on('error', () => {});
    let isDone = false;
    const done = writeInTurn(stream, 'text').then(() => {
      isDone = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(isDone).toBe(false);
    written[0]?.();
    await done;
    const failed = writeInTurn(stream, 'text');
    stream.destroy(new Error('EPIPE'));
    await failed;
    await writeInTurn(stream, 'text');
    expect(stream.listenerCount('drain') + stream.listenerCount('close')).toBe(0);
  });
});
