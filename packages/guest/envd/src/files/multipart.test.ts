import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type MultipartLimits, multipartBoundary, parseMultipart } from './multipart.ts';

interface Parsed {
  readonly name: string | undefined;
  readonly fileName: string | undefined;
  readonly content: string;
}

async function* cut(bytes: Uint8Array, lengths: readonly number[]): AsyncGenerator<Uint8Array> {
  let offset = 0;
  for (const length of lengths) {
    yield bytes.subarray(offset, offset + length);
    offset += length;
  }
  yield bytes.subarray(offset);
}

async function parse(
  body: string | Uint8Array,
  boundary: string,
  { cuts = [], limits, skip }: { cuts?: readonly number[]; limits?: MultipartLimits; skip?: string } = {},
): Promise<Parsed[]> {
  const bytes = typeof body === 'string' ? Buffer.from(body, 'latin1') : body;
  const parts: Parsed[] = [];
  for await (const part of parseMultipart(cut(bytes, cuts), boundary, limits)) {
    if (part.name !== undefined && part.name === skip) continue;
    const pieces: Uint8Array[] = [];
    for await (const piece of part.body) pieces.push(Uint8Array.from(piece));
    parts.push({
      name: part.name,
      fileName: part.fileName,
      content: Buffer.concat(pieces).toString('latin1'),
    });
  }
  return parts;
}

function form(boundary: string, parts: readonly Parsed[]): string {
  const sections = parts.map(
    ({ name, fileName, content }) =>
      `--${boundary}\r\nContent-Disposition: form-data; name="${name}"; filename="${fileName}"\r\n` +
      `Content-Type: application/octet-stream\r\n\r\n${content}\r\n`,
  );
  return `${sections.join('')}--${boundary}--\r\n`;
}

describe('parseMultipart', () => {
  const boundary = '-X-';
  // Made of what delimiters are made of, so that almost-delimiters are everywhere.
  const content = fc
    .array(fc.constantFrom('\r', '\n', '-', 'X', '\r\n', '\r\n-', '\r\n--', '\r\n---X', 'a', '\0', '\xff'), {
      maxLength: 40,
    })
    .map((pieces) => pieces.join(''))
    .filter((text) => !text.includes(`\r\n--${boundary}`));
  const part = fc.record({
    name: fc.constantFrom('file', 'other'),
    fileName: fc.stringMatching(/^[a-z/. ]{1,20}$/),
    content,
  });

  it('finds the same parts wherever the bytes are cut', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(part, { maxLength: 5 }),
        fc.array(fc.nat(30), { maxLength: 60 }),
        async (parts, cuts) => {
          expect(await parse(form(boundary, parts), boundary, { cuts })).toEqual(parts);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('reads byte by byte what undici sends', async () => {
    const data = new FormData();
    data.append('file', new Blob(['one']), '/a/ü.txt');
    data.append('file', new Blob([new Uint8Array(3)]), 'two');
    const request = new Request('http://x/', { method: 'POST', body: data });
    const sent = multipartBoundary(request.headers.get('Content-Type') ?? '') ?? '';
    const bytes = new Uint8Array(await request.arrayBuffer());
    expect(await parse(bytes, sent, { cuts: Array(bytes.length).fill(1) })).toEqual([
      { name: 'file', fileName: '/a/ü.txt', content: 'one' },
      { name: 'file', fileName: 'two', content: '\0\0\0' },
    ]);
  });

  it('skips parts that nobody reads, the preamble and the epilogue', async () => {
    const body = `before\r\n${form('b', [
      { name: 'other', fileName: 'x', content: 'skipped' },
      { name: 'file', fileName: 'y', content: 'kept' },
    ])}after --b`;
    expect(await parse(body, 'b', { skip: 'other' })).toEqual([
      { name: 'file', fileName: 'y', content: 'kept' },
    ]);
  });

  it('takes a part without headers, and one without contents', async () => {
    expect(await parse('--b\r\n\r\nx\r\n--b\r\n\r\n\r\n--b--', 'b')).toEqual([
      { name: undefined, fileName: undefined, content: 'x' },
      { name: undefined, fileName: undefined, content: '' },
    ]);
  });

  it('takes blanks after a boundary and folded headers', async () => {
    const body = '--b \t\r\ncontent-DISPOSITION: form-data;\r\n name="file"\r\n\r\nx\r\n--b--';
    expect(await parse(body, 'b')).toEqual([{ name: 'file', fileName: undefined, content: 'x' }]);
  });

  it.each([
    ['an empty body', ''],
    ['no closing boundary', '--b\r\n\r\nx'],
    ['an end in the headers', '--b\r\nContent-Disposition: form-data'],
    ['an end in the boundary', '--b\r\n\r\nx\r\n--b'],
    ['something behind a boundary', '--bc\r\n\r\nx\r\n--b--'],
  ])('refuses %s', async (_what, body) => {
    await expect(parse(body, 'b')).rejects.toMatchObject({ httpStatus: 400 });
  });

  it('bounds headers and the number of parts', async () => {
    const limits = { headerBytes: 100, parts: 2 };
    const long = `--b\r\nX: ${'x'.repeat(200)}`;
    await expect(parse(long, 'b', { limits, cuts: Array(10).fill(20) })).rejects.toMatchObject({
      httpStatus: 400,
    });
    const many = form('b', Array(3).fill({ name: 'f', fileName: 'f', content: '' }));
    await expect(parse(many, 'b', { limits })).rejects.toThrow('more than 2 parts');
  });

  it('never throws anything but a refusal, whatever the bytes', async () => {
    const bytes = fc.array(
      fc.constantFrom('--b', '\r\n', '--', 'Content-Disposition:', ' form-data;', 'name=', '"', 'x'),
    );
    await fc.assert(
      fc.asyncProperty(bytes, async (pieces) => {
        await parse(pieces.join(''), 'b').catch((error: unknown) => {
          expect(error).toMatchObject({ httpStatus: 400 });
        });
      }),
    );
  });
});

describe('multipartBoundary', () => {
  it.each([
    ['multipart/form-data; boundary=abc', 'abc'],
    ['multipart/form-data; charset=utf-8; boundary="a b"', 'a b'],
    ['multipart/form-data', undefined],
    [`multipart/form-data; boundary=${'x'.repeat(201)}`, undefined],
  ])('of %j is %j', (contentType, boundary) => {
    expect(multipartBoundary(contentType)).toBe(boundary);
  });
});
