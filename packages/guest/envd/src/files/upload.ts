/** POST /files: one file as the whole body, or a form with any number of them. */
import { basename } from 'node:path';
import { pipeline, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { type Metadata, metadataOf, readMetadata, refuseMetadata } from '../filesystem/metadata.ts';
import type { User } from '../sys/users.ts';
import { contentEncoding } from './encoding.ts';
import { multipartBoundary, parseMultipart } from './multipart.ts';
import { refusal } from './refusal.ts';
import { type WriteDependencies, writeFile } from './write-file.ts';

export interface UploadTarget {
  readonly user: User;
  /** The path of the query, as sent; undefined where there is none. */
  readonly path: string | undefined;
  resolve(path: string): string;
}

export interface UploadedFile {
  readonly path: string;
  readonly name: string;
  readonly type: 'file';
  readonly metadata?: Metadata;
}

const GUNZIP_CHUNK_BYTES = 256 * 1024;

export async function upload(
  request: Request,
  target: UploadTarget,
  dependencies: WriteDependencies,
): Promise<UploadedFile[]> {
  const { headers } = request;
  const encoding = contentEncoding(headers.get('Content-Encoding'));
  if (encoding === undefined) {
    throw refusal(400, `unsupported Content-Encoding: ${headers.get('Content-Encoding')}, supported: gzip`);
  }
  const metadata = metadataOf(headers);
  const complaint = refuseMetadata(metadata);
  if (complaint !== undefined) throw refusal(400, `invalid metadata: ${complaint}`);

  const plain: AsyncIterable<Uint8Array> = request.body ?? nothing();
  const body = encoding === 'gzip' ? gunzip(plain) : plain;
  const store = async (path: string, contents: AsyncIterable<Uint8Array>, sizeBytes?: number) => {
    await writeFile({ path, owner: target.user, metadata, sizeBytes }, contents, dependencies);
    return describe(path, dependencies);
  };

  const contentType = headers.get('Content-Type') ?? '';
  const mediaType = contentType.split(';', 1)[0]?.trim().toLowerCase() ?? '';
  if (mediaType === 'application/octet-stream') {
    if (target.path === undefined) {
      throw refusal(400, 'path query parameter is required for raw body upload');
    }
    const sizeBytes = encoding === 'identity' ? contentLength(headers) : undefined;
    return [await store(target.resolve(target.path), body, sizeBytes)];
  }
  if (mediaType === 'multipart/form-data') return storeForm(body, contentType, target, store);
  throw refusal(
    400,
    `unsupported content type: ${contentType}, expected multipart/form-data or application/octet-stream`,
  );
}

async function storeForm(
  body: AsyncIterable<Uint8Array>,
  contentType: string,
  target: UploadTarget,
  store: (path: string, contents: AsyncIterable<Uint8Array>) => Promise<UploadedFile>,
): Promise<UploadedFile[]> {
  const boundary = multipartBoundary(contentType);
  if (boundary === undefined) throw refusal(400, 'the form has no usable boundary');
  const files = new Map<string, UploadedFile>();
  for await (const part of parseMultipart(body, boundary)) {
    if (part.name !== 'file') continue;
    const given = target.path ?? part.fileName;
    if (given === undefined) throw refusal(400, 'a file of the form has no name, and the query no path');
    const path = target.resolve(given);
    if (files.has(path)) {
      throw refusal(
        400,
        `you cannot upload multiple files to the same path '${path}' in one upload request, ` +
          'only the first specified file was uploaded',
      );
    }
    files.set(path, await store(path, part.body));
  }
  return [...files.values()];
}

/** The metadata as the file now has it: where none is kept, none is claimed. */
function describe(path: string, { xattrs }: WriteDependencies): UploadedFile {
  const metadata = readMetadata(xattrs, path);
  const file = { path, name: basename(path), type: 'file' } as const;
  return Object.keys(metadata).length === 0 ? file : { ...file, metadata };
}

function contentLength(headers: Headers): number | undefined {
  const text = headers.get('Content-Length');
  return text !== null && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

async function* gunzip(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const decompressor = createGunzip({ chunkSize: GUNZIP_CHUNK_BYTES });
  const source = Readable.from(body, { objectMode: false });
  // An error on either side destroys both, and reading then throws it.
  pipeline(source, decompressor, () => {});
  try {
    yield* decompressor as AsyncIterable<Uint8Array>;
  } catch (error) {
    if (error instanceof Error && 'code' in error && String(error.code).startsWith('Z_')) {
      throw refusal(400, `error decompressing request body: ${error.message}`);
    }
    throw error;
  } finally {
    source.destroy();
  }
}

async function* nothing(): AsyncGenerator<Uint8Array> {}
