import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseDirents } from './dirents.ts';

/** As getdents64 writes it: a header, the name, NULs up to a multiple of 8. */
function encode(name: Uint8Array, type: number): Uint8Array {
  const bytes = new Uint8Array(Math.ceil((19 + name.length + 1) / 8) * 8);
  new DataView(bytes.buffer).setUint16(16, bytes.length, true);
  bytes[18] = type;
  bytes.set(name, 19);
  return bytes;
}

const text = (name: string) => new TextEncoder().encode(name);

describe('parseDirents', () => {
  it('tells names and kinds, without the directory itself and its parent', () => {
    const bytes = Buffer.concat([
      encode(text('.'), 4),
      encode(text('..'), 4),
      encode(text('sub'), 4),
      encode(text('file'), 8),
      encode(text('link'), 10),
      encode(text('what'), 0),
      encode(new Uint8Array([0x61, 0xff]), 8),
    ]);
    expect(parseDirents(bytes)).toEqual([
      { name: 'sub', kind: 'directory' },
      { name: 'file', kind: 'other' },
      { name: 'link', kind: 'other' },
      { name: 'what', kind: 'unknown' },
      { name: 'a\ufffd', kind: 'other' },
    ]);
  });

  it('ends, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        expect(parseDirents(bytes).length).toBeLessThanOrEqual(bytes.length / 19);
      }),
    );
  });
});
