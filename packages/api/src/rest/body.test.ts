import { PassThrough, Readable } from 'node:stream';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readBody } from './body.ts';

const MAX_BYTES = 100;
const none = (): void => {};

/** What is read, and what was counted on the way. */
async function read(pieces: readonly Uint8Array[], length?: number) {
  let counted = 0;
  const headers = length === undefined ? {} : { 'content-length': String(length) };
  const onBytes = (bytes: number): void => {
    counted += bytes;
  };
  const body = Readable.from(
    pieces.map((piece) => Buffer.from(piece)),
    { objectMode: false },
  );
  const outcome = await readBody(body, { headers, maxBytes: MAX_BYTES, onBytes }).catch(
    (error: unknown) => (error as { statusCode: number }).statusCode,
  );
  return { outcome, counted };
}

describe('a body', () => {
  const bytes = fc.uint8Array({ minLength: 1, maxLength: 60 });

  it('is what was sent, in whatever pieces, and counted once', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(bytes, { maxLength: 5 }), fc.boolean(), async (pieces, isDeclared) => {
        const whole = Buffer.concat(pieces);
        const { outcome, counted } = await read(pieces, isDeclared ? whole.length : undefined);
        expect(outcome).toBe(whole.length > MAX_BYTES ? 413 : whole.toString('utf8'));
        expect(counted).toBeLessThanOrEqual(MAX_BYTES);
        if (typeof outcome === 'string') expect(counted).toBe(whole.length);
      }),
    );
  });

  it('is as long as its client has said', async () => {
    const piece = Buffer.from('12345');
    expect((await read([piece], 4)).outcome).toBe(400);
    expect((await read([piece], 6)).outcome).toBe(400);
    expect((await read([], 1)).outcome).toBe(400);
    // Before any of it has come.
    expect(await read([piece], MAX_BYTES + 1)).toEqual({ outcome: 413, counted: 0 });
  });

  it('is kept no further where it is refused, and its connection is left alone', async () => {
    const body = new PassThrough();
    const refusal = new Error('too much');
    const onBytes = (): void => {
      throw refusal;
    };
    const read = readBody(body, { headers: {}, maxBytes: MAX_BYTES, onBytes });
    body.write('x');
    await expect(read).rejects.toBe(refusal);
    expect(body.destroyed).toBe(false);
    expect(body.listenerCount('data')).toBe(0);
    body.end('and the rest of it');
    await new Promise((resolve) => body.once('end', resolve));
  });

  it('that breaks off is an error', async () => {
    const body = new PassThrough();
    const read = readBody(body, { headers: {}, maxBytes: MAX_BYTES, onBytes: none });
    body.destroy(new Error('aborted'));
    await expect(read).rejects.toMatchObject({ message: 'aborted', statusCode: 400 });
  });
});
