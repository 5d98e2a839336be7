import { gzipSync } from 'node:zlib';
import { WrennError } from '@wrenn/protocol';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { findPayload } from './bzimage.ts';

/** A bzImage with one setup sector and the payload right behind it. */
function bzImage(payload: Buffer, protocol = 0x020f): Buffer {
  const image = Buffer.alloc(1024 + payload.length);
  image.writeUInt8(1, 0x1f1);
  image.write('HdrS', 0x202, 'latin1');
  image.writeUInt16LE(protocol, 0x206);
  image.writeUInt32LE(0, 0x248);
  image.writeUInt32LE(payload.length, 0x24c);
  payload.copy(image, 1024);
  return image;
}

const withSize = (data: Buffer, size: number) => {
  const tail = Buffer.alloc(4);
  tail.writeUInt32LE(size);
  return Buffer.concat([data, tail]);
};

describe('findPayload', () => {
  it('finds an lz4 payload without the size behind it', () => {
    const data = Buffer.concat([Buffer.from('02214c18', 'hex'), Buffer.from('squeezed')]);
    expect(findPayload(bzImage(withSize(data, 4711)))).toEqual({
      compression: 'lz4',
      data,
      unpackedBytes: 4711,
    });
  });

  it('leaves the size in a gzip payload, whose own trailer it is', () => {
    const data = gzipSync(Buffer.alloc(1000));
    expect(findPayload(bzImage(data))).toEqual({ compression: 'gzip', data, unpackedBytes: 1000 });
  });

  it.each([
    ['no boot header', Buffer.alloc(2048)],
    ['older than 2.08', bzImage(Buffer.from('1f8b08000000', 'hex'), 0x0207)],
    ['compression is unknown', bzImage(Buffer.from('0011223344556677', 'hex'))],
    ['outside of the file', bzImage(Buffer.alloc(64)).subarray(0, 1030)],
  ])('refuses an image with %s', (why, image) => {
    expect(() => findPayload(image)).toThrowError(why);
  });

  it('answers any bytes with a payload or a WrennError', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2048 }), (bytes) => {
        const image = bzImage(Buffer.alloc(16));
        Buffer.from(bytes).copy(image);
        try {
          findPayload(image);
        } catch (error) {
          expect(error).toBeInstanceOf(WrennError);
        }
      }),
    );
  });
});
