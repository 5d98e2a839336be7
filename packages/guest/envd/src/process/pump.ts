/** Moves what a process prints from its file descriptor to the hub, no faster than the hub takes it. */
import { errnoCode } from '../sys/errno.ts';

export interface ByteReader {
  read(): Promise<{ readonly done: boolean; readonly value?: Uint8Array | undefined }>;
}

/**
 * Output that was printed before the end of a killed process is still delivered; what its surviving
 * descendants go on printing into the same pipe is not. These say where the one ends.
 */
const CUT_QUIET_MS = 50;
const CUT_MAX_BYTES = 1024 * 1024;

/**
 * Returns at the end of the stream, or soon after `cut` was aborted.
 * A hung-up terminal reads EIO: that is its end of file.
 */
export async function pump(
  reader: ByteReader,
  publish: (bytes: Uint8Array) => Promise<void>,
  cut: AbortSignal,
): Promise<void> {
  let bytesAfterCut = 0;
  while (bytesAfterCut < CUT_MAX_BYTES) {
    const chunk = await unlessQuiet(readChunk(reader), cut);
    if (chunk === undefined) return;
    if (cut.aborted) bytesAfterCut += chunk.byteLength;
    if (chunk.byteLength > 0) await publish(chunk);
  }
}

async function readChunk(reader: ByteReader): Promise<Uint8Array | undefined> {
  try {
    const { done, value } = await reader.read();
    return done ? undefined : value;
  } catch (error) {
    if (errnoCode(error) === 'EIO') return undefined;
    throw error;
  }
}

/** The chunk; undefined once the cut has come and nothing was read for a while. */
function unlessQuiet(
  chunk: Promise<Uint8Array | undefined>,
  cut: AbortSignal,
): Promise<Uint8Array | undefined> {
  return new Promise((resolve, reject) => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const startTimer = () => {
      timer = setTimeout(() => resolve(undefined), CUT_QUIET_MS);
    };
    const stop = () => {
      clearTimeout(timer);
      cut.removeEventListener('abort', startTimer);
    };
    if (cut.aborted) startTimer();
    else cut.addEventListener('abort', startTimer, { once: true });
    chunk.then(resolve, reject).finally(stop);
  });
}
