/** GET /files: one file, whole or a range of it, plain or in gzip. */
import { constants } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { pipeline, Readable } from 'node:stream';
import { createGzip, constants as zlib } from 'node:zlib';
import { isMissing } from '../filesystem/fs-errors.ts';
import { inlineDisposition } from './content-disposition.ts';
import { acceptedEncoding } from './encoding.ts';
import { streamFile } from './file-stream.ts';
import { parseRange, WHOLE } from './range.ts';
import { refusal } from './refusal.ts';
import type { WriteDependencies } from './write-file.ts';

const PAGE_BYTES = 4096;
const PROBE_BYTES = 64 * 1024;

/**
 * A plain answer is Bun's own, sent by the kernel from file to socket (sendfile): several times cheaper than
 * any stream, and only so can an answer have a Content-Length. Its price: if the file becomes shorter
 * meanwhile, Bun goes silent (as of 1.4.5) and it takes the reader's patience to end the transfer.
 */
export async function download(
  path: string,
  request: Request,
  { statfs }: Pick<WriteDependencies, 'statfs'>,
): Promise<Response> {
  const { headers } = request;
  const encoding = acceptedEncoding(headers.get('Accept-Encoding'));
  const handle = await openRegularFile(path);
  // Else the body's stream closes it.
  let streamed = false;
  const stream = (end: number) => {
    streamed = true;
    return streamFile(handle, { start: 0, end });
  };
  try {
    const { size: sizeBytes, mtime } = await handle.stat();
    if (encoding === undefined) throw refusal(406, 'no acceptable encoding found, supported: identity, gzip');
    const file = Bun.file(path);
    const common = {
      'Content-Type': file.type,
      'Content-Disposition': inlineDisposition(basename(path)),
      'Last-Modified': mtime.toUTCString(),
      'X-Content-Type-Options': 'nosniff',
      Vary: 'Accept-Encoding',
    };
    if (notModifiedSince(headers, mtime)) return new Response(null, { status: 304, headers: common });
    // Files of the kernel have a size that says nothing: none in /proc, a whole page in /sys. Others without a size of
    // their file system, as of a tmpfs without a limit, have their own.
    if (sizeBytes === 0 || (sizeBytes === PAGE_BYTES && statfs(path).totalBytes === 0)) {
      if (!(await isEmpty(handle)))
        return new Response(stream(Number.POSITIVE_INFINITY), { headers: common });
      return new Response('', { headers: common });
    }

    const asked = headers.get('Range');
    const range = rangeApplies(headers, mtime) ? parseRange(asked, sizeBytes) : WHOLE;
    if (range.kind === 'unsatisfiable') {
      return new Response(null, { status: 416, headers: { 'Content-Range': `bytes */${sizeBytes}` } });
    }
    if (range.kind === 'part') {
      const { start, end } = range;
      const part = { 'Accept-Ranges': 'bytes', 'Content-Range': `bytes ${start}-${end - 1}/${sizeBytes}` };
      return new Response(file.slice(start, end), { status: 206, headers: { ...common, ...part } });
    }
    if (encoding === 'gzip') {
      return new Response(gzip(stream(sizeBytes)), { headers: { ...common, 'Content-Encoding': 'gzip' } });
    }
    // Bun would look at a range that is to be ignored, in its own way.
    const body = asked === null ? file : stream(sizeBytes);
    return new Response(body, { headers: { ...common, 'Accept-Ranges': 'bytes' } });
  } finally {
    if (!streamed) await handle.close();
  }
}

/** NONBLOCK: if the file is swapped for a FIFO in between, this must not wait for its writer. */
async function openRegularFile(path: string): Promise<FileHandle> {
  try {
    const stats = await stat(path);
    if (stats.isDirectory()) throw refusal(400, `path '${path}' is a directory`);
    if (!stats.isFile()) throw refusal(400, `path '${path}' is not a regular file`);
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    if ((await handle.stat()).isFile()) return handle;
    await handle.close();
    throw refusal(400, `path '${path}' is not a regular file`);
  } catch (error) {
    throw isMissing(error) ? refusal(404, `path '${path}' does not exist`) : error;
  }
}

async function isEmpty(handle: FileHandle): Promise<boolean> {
  const { bytesRead } = await handle.read(Buffer.alloc(PROBE_BYTES), 0, PROBE_BYTES, 0);
  return bytesRead === 0;
}

/** HTTP dates have whole seconds. */
function toSeconds(timeMs: number): number {
  return Math.floor(timeMs / 1000);
}

function notModifiedSince(headers: Headers, mtime: Date): boolean {
  const since = Date.parse(headers.get('If-Modified-Since') ?? '');
  return !Number.isNaN(since) && toSeconds(mtime.getTime()) <= toSeconds(since);
}

/** With If-Range, a part is only sent of the very file that the client has the rest of. */
function rangeApplies(headers: Headers, mtime: Date): boolean {
  const condition = headers.get('If-Range');
  return condition === null || toSeconds(Date.parse(condition)) === toSeconds(mtime.getTime());
}

/** The quickest level: what is compressed here crosses a virtual wire, where time costs more than bytes. */
function gzip(body: ReadableStream<Uint8Array>): ReadableStream<Uint8Array<ArrayBuffer>> {
  const compressor = createGzip({ level: zlib.Z_BEST_SPEED, chunkSize: PROBE_BYTES });
  const source = Readable.fromWeb(body as Parameters<typeof Readable.fromWeb>[0]);
  // An error on either side destroys both; the response then breaks off.
  pipeline(source, compressor, () => {});
  return Readable.toWeb(compressor) as ReadableStream<Uint8Array<ArrayBuffer>>;
}
