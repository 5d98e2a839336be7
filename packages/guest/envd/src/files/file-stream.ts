/** A file's bytes as a response body: read ahead by one piece, so that disk and network work at once. */
import type { FileHandle } from 'node:fs/promises';

/** Two of these are in memory for each download. */
const PIECE_BYTES = 512 * 1024;

export interface FileRange {
  readonly start: number;
  /** Exclusive. Infinity: to the end, wherever that is. */
  readonly end: number;
}

/**
 * Takes the handle over: it is closed at the end, on an error and when the reader leaves. A file that has
 * become shorter meanwhile is an error, so that the connection breaks: the length was promised already.
 */
export function streamFile(handle: FileHandle, range: FileRange): ReadableStream<Uint8Array<ArrayBuffer>> {
  let position = range.start;
  let ahead: Promise<Uint8Array<ArrayBuffer>> | undefined;

  async function readPiece(): Promise<Uint8Array<ArrayBuffer>> {
    const wanted = Math.min(PIECE_BYTES, range.end - position);
    const piece = Buffer.allocUnsafeSlow(wanted);
    const { bytesRead } = await handle.read(piece, 0, wanted, position);
    position += bytesRead;
    return piece.subarray(0, bytesRead);
  }

  function startReading(): Promise<Uint8Array<ArrayBuffer>> {
    const piece = readPiece();
    // Awaited by the next pull, if there is one.
    piece.catch(() => {});
    return piece;
  }

  return new ReadableStream<Uint8Array<ArrayBuffer>>(
    {
      pull: async (controller) => {
        try {
          const piece = await (ahead ?? startReading());
          if (piece.length === 0 && Number.isFinite(range.end)) throw new Error('the file became shorter');
          const atEnd = piece.length === 0 || position >= range.end;
          ahead = atEnd ? undefined : startReading();
          if (piece.length > 0) controller.enqueue(piece);
          if (!atEnd) return;
          await handle.close();
          controller.close();
        } catch (error) {
          await handle.close();
          controller.error(error);
        }
      },
      cancel: async () => {
        await ahead?.catch(() => {});
        await handle.close();
      },
    },
    { highWaterMark: 0 },
  );
}
