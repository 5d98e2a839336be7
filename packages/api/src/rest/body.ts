/**
 * The body of a request, read as a whole: no larger than any may be, and counted as it comes, for a client may have many
 * under way. What is too much is not read to its end.
 */
import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';
import { errorCodes } from 'fastify';

export interface BodyOptions {
  readonly headers: IncomingHttpHeaders;
  readonly maxBytes: number;
  /** Told of bytes before they are kept, all at once where the client has said how many they are; throws to refuse. */
  readonly onBytes: (bytes: number) => void;
}

/** Rejects with what `onBytes` throws, and with Fastify's errors. */
export async function readBody(body: Readable, { headers, maxBytes, onBytes }: BodyOptions): Promise<string> {
  const length = headers['content-length'];
  const declared = length === undefined ? undefined : Number(length);
  if (declared !== undefined && declared > maxBytes) throw new errorCodes.FST_ERR_CTP_BODY_TOO_LARGE();
  if (declared !== undefined) onBytes(declared);
  const chunks: Buffer[] = [];
  let size = 0;
  const take = (chunk: Buffer): void => {
    size += chunk.length;
    if (size > maxBytes) throw new errorCodes.FST_ERR_CTP_BODY_TOO_LARGE();
    if (declared === undefined) onBytes(chunk.length);
    else if (size > declared) throw new errorCodes.FST_ERR_CTP_INVALID_CONTENT_LENGTH();
    chunks.push(chunk);
  };
  await new Promise<void>((resolve, reject) => {
    const onData = (chunk: Buffer): void => {
      try {
        take(chunk);
      } catch (error) {
        stop();
        reject(error);
      }
    };
    const onEnd = (): void => {
      stop();
      resolve();
    };
    const onError = (error: Error): void => {
      stop();
      reject(Object.assign(error, { statusCode: 400 }));
    };
    // What comes afterwards is not kept.
    const stop = (): void => {
      body.off('data', onData).off('end', onEnd).off('error', onError);
    };
    body.on('data', onData).on('end', onEnd).on('error', onError).resume();
  });
  if (declared !== undefined && size !== declared) throw new errorCodes.FST_ERR_CTP_INVALID_CONTENT_LENGTH();
  return Buffer.concat(chunks, size).toString('utf8');
}
