/**
 * A form of multipart/form-data (RFC 7578) as its bytes come: one part after the other, the contents in
 * pieces, nothing held but a piece and the headers of one part.
 */
import { type PartDisposition, parsePartDisposition } from './content-disposition.ts';
import { refusal } from './refusal.ts';

export interface Part extends PartDisposition {
  /** To be read to its end before the next part is asked for, or not at all: then it is skipped. */
  readonly body: AsyncIterable<Uint8Array>;
}

export interface MultipartLimits {
  readonly headerBytes: number;
  readonly parts: number;
}

const MULTIPART_LIMITS: MultipartLimits = { headerBytes: 16 * 1024, parts: 50_000 };

/** RFC 2046 says 70. */
const BOUNDARY_MAX_CHARACTERS = 200;
const CRLF = Buffer.from('\r\n');
const HEADERS_END = Buffer.from('\r\n\r\n');
const CARRIAGE_RETURN = 0x0d;

/** From a Content-Type; undefined where it has none that is usable. */
export function multipartBoundary(contentType: string): string | undefined {
  const [, quoted, plain] = /;\s*boundary\s*=\s*(?:"([^"]+)"|([^\s;"]+))/i.exec(contentType) ?? [];
  const boundary = quoted ?? plain;
  return boundary !== undefined && boundary.length <= BOUNDARY_MAX_CHARACTERS ? boundary : undefined;
}

export async function* parseMultipart(
  chunks: AsyncIterable<Uint8Array>,
  boundary: string,
  limits: MultipartLimits = MULTIPART_LIMITS,
): AsyncGenerator<Part> {
  const input = createInput(chunks);
  const delimiter = Buffer.from(`\r\n--${boundary}`);
  // The first delimiter may stand at the very beginning: then it has no line break before it.
  input.unread(CRLF);
  for await (const _preamble of input.until(delimiter)) {
    // Whatever comes before the first part means nothing.
  }
  for (let parts = 1; ; parts++) {
    const line = await input.line(limits.headerBytes);
    if (line.startsWith('--')) return;
    if (line.trim() !== '') throw refusal(400, 'malformed multipart body: no line break after a boundary');
    if (parts > limits.parts) throw refusal(400, `more than ${limits.parts} parts in one request`);
    const headers = await input.headers(limits.headerBytes);
    const body = input.until(delimiter);
    yield { ...disposition(headers), body };
    for await (const _rest of body) {
      // The reader wanted no more of this part.
    }
  }
}

function disposition(headers: string): PartDisposition {
  for (const line of headers.replace(/\r\n[ \t]+/g, ' ').split('\r\n')) {
    const [, value] = /^content-disposition\s*:(.*)$/i.exec(line) ?? [];
    if (value !== undefined) return parsePartDisposition(value) ?? { name: undefined, fileName: undefined };
  }
  return { name: undefined, fileName: undefined };
}

interface Input {
  unread(bytes: Uint8Array): void;
  /** What comes before the delimiter, which is taken too. */
  until(delimiter: Buffer): AsyncGenerator<Uint8Array>;
  line(maxBytes: number): Promise<string>;
  headers(maxBytes: number): Promise<string>;
}

function createInput(chunks: AsyncIterable<Uint8Array>): Input {
  const source = chunks[Symbol.asyncIterator]();
  let held: Buffer = Buffer.alloc(0);

  async function pull(): Promise<void> {
    const { done, value } = await source.next();
    if (done) throw refusal(400, 'malformed multipart body: it ends before its closing boundary');
    const chunk = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
  }

  async function* until(delimiter: Buffer): AsyncGenerator<Uint8Array> {
    for (;;) {
      const found = held.indexOf(delimiter);
      const safe = found === -1 ? held.length - partialMatch(held, delimiter) : found;
      const piece = held.subarray(0, safe);
      held = held.subarray(found === -1 ? safe : found + delimiter.length);
      if (piece.length > 0) yield piece;
      if (found !== -1) return;
      await pull();
    }
  }

  async function upTo(end: Buffer, maxBytes: number): Promise<string> {
    for (;;) {
      const found = held.indexOf(end);
      if (found > maxBytes || (found === -1 && held.length > maxBytes)) {
        throw refusal(400, `malformed multipart body: more than ${maxBytes} bytes of headers`);
      }
      if (found !== -1) {
        const text = held.toString('utf8', 0, found);
        held = held.subarray(found + end.length);
        return text;
      }
      await pull();
    }
  }

  return {
    unread: (bytes) => {
      held = Buffer.concat([bytes, held]);
    },
    until,
    line: (maxBytes) => closingLine(maxBytes),
    headers: async (maxBytes) => {
      while (held.length < CRLF.length) await pull();
      // A part without any header begins with the empty line.
      if (held.indexOf(CRLF) !== 0) return await upTo(HEADERS_END, maxBytes);
      held = held.subarray(CRLF.length);
      return '';
    },
  };

  /** The rest of a delimiter's line. After the closing one nothing needs to follow. */
  async function closingLine(maxBytes: number): Promise<string> {
    while (held.length < 2) await pull();
    return held.toString('latin1', 0, 2) === '--' ? '--' : upTo(CRLF, maxBytes);
  }
}

/** How many of the last bytes may be the beginning of the delimiter, whose first byte is its only CR. */
function partialMatch(bytes: Buffer, delimiter: Buffer): number {
  const from = Math.max(0, bytes.length - delimiter.length + 1);
  for (
    let at = bytes.indexOf(CARRIAGE_RETURN, from);
    at !== -1;
    at = bytes.indexOf(CARRIAGE_RETURN, at + 1)
  ) {
    const length = bytes.length - at;
    if (bytes.compare(delimiter, 0, length, at) === 0) return length;
  }
  return 0;
}
