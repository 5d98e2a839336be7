import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeEnvelope, readEnvelopes } from './envelope.ts';

async function* inPieces(bytes: Uint8Array, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
  let offset = 0;
  for (let i = 0; offset < bytes.length; i++) {
    const end = offset + (sizes[i % sizes.length] ?? 1);
    yield bytes.subarray(offset, end);
    offset = end;
  }
}

async function collect(pieces: AsyncIterable<Uint8Array>, maxBytes = 1000): Promise<number[][]> {
  const messages: number[][] = [];
  for await (const message of readEnvelopes(pieces, maxBytes)) messages.push([...message]);
  return messages;
}

describe('envelopes', () => {
  it('come back whole, however the bytes are cut', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 8 }),
        fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 5 }),
        async (messages, sizes) => {
          const bytes = Buffer.concat(messages.map((message) => encodeEnvelope(0, message)));
          expect(await collect(inPieces(bytes, sizes))).toEqual(messages.map((message) => [...message]));
        },
      ),
    );
  });

  it('hold text as UTF-8', () => {
    expect([...encodeEnvelope(2, 'é')]).toEqual([2, 0, 0, 0, 2, 0xc3, 0xa9]);
  });

  it.each([
    [[0, 0, 0, 3, 233], /larger than 1000/],
    [[0, 255, 255, 255, 255], /larger than 1000/],
    [[1, 0, 0, 0, 0], /compressed/],
    [[0, 0, 0, 0, 2, 1], /ends within a message/],
    [[0, 0], /ends within a message/],
  ])('refuse %j', async (bytes, problem) => {
    await expect(collect(inPieces(Uint8Array.from(bytes), [100]))).rejects.toThrow(problem);
  });

  it('are refused by their length before their content comes', async () => {
    async function* endless(): AsyncGenerator<Uint8Array> {
      yield Uint8Array.of(0, 127, 0, 0, 0);
      throw new Error('read on');
    }
    await expect(collect(endless())).rejects.toThrow(/larger/);
  });
});
