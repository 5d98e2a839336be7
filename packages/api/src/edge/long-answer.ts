/**
 * What is left of a long answer goes from the guest's connection to the client's past Node's parser and its streams: in
 * larger pieces, without a copy and garbage for each.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { askBeforeEachPiece, askNoMore, PAST_BYTES, type Past } from './guest-socket.ts';

/** The connection to the guest ends with it, which a shorter one is not worth. */
const LONG_BYTES = 8 * 1024 * 1024;

/**
 * Once all has been read that had come, what comes next may gather for so long. Read as it comes it is some 64 KiB at a time,
 * each of which wakes this process and the client's: more work for both than what is to be done with it.
 */
const GATHER_MS = 1;

/**
 * For an answer that is piped to the response. `onWhole` is called once all of it has been handed to the client's
 * connection; whatever else the guest sends is lost with its own.
 */
export function takeRestPast(answer: IncomingMessage, response: ServerResponse, onWhole: () => void): void {
  const lengthBytes = countedLength(answer);
  if (lengthBytes === undefined) return;
  const guest = answer.socket;
  let parsedBytes = 0;
  answer.on('data', (piece: Buffer) => {
    parsedBytes += piece.length;
  });
  askBeforeEachPiece(guest, () => {
    const client = response.socket;
    const leftBytes = lengthBytes - parsedBytes;
    if (client === null || leftBytes < LONG_BYTES) return undefined;
    // The parser is in the middle of the body, and has given on all that it was given: the next bytes are the body's.
    const isInStep = !answer.complete && answer.readableLength === 0 && guest.readableLength === 0;
    if (!isInStep || !isNextToWrite(response, client)) return undefined;
    answer.unpipe(response);
    return passRest(guest, client, leftBytes, () => {
      response.end();
      onWhole();
    });
  });
  answer.once('end', () => askNoMore(guest));
}

/** What is written to its connection follows on what has been written to it. */
function isNextToWrite(response: ServerResponse, client: Socket): boolean {
  return response.writableLength === 0 && client.writableCorked === 0 && client.writable;
}

function passRest(guest: Socket, client: Socket, sizeBytes: number, onWhole: () => void): Past {
  let leftBytes = sizeBytes;
  let gathering: NodeJS.Timeout | undefined;
  const goOn = (): void => {
    if (leftBytes > 0 && gathering === undefined && client.writableLength === 0) guest.resume();
  };
  return (piece, done) => {
    // Nobody can have the rest; that the guest's connection breaks is what tells the edge.
    if (!client.writable) {
      guest.destroy();
      return false;
    }
    // What is more than it was to be is nothing that a client may see.
    const body = piece.subarray(0, leftBytes);
    leftBytes -= body.length;
    const isLast = leftBytes === 0;
    client.write(body, () => {
      done();
      goOn();
    });
    if (isLast) {
      guest.destroy();
      onWhole();
    }
    if (!isLast && piece.length < PAST_BYTES) {
      clearTimeout(gathering);
      gathering = setTimeout(() => {
        gathering = undefined;
        goOn();
      }, GATHER_MS);
    }
    return gathering === undefined && client.writableLength === 0;
  };
}

/** Undefined where it is short, or not said in a way that can be relied on. */
function countedLength({ headers }: IncomingMessage): number | undefined {
  const text = headers['content-length'] ?? '';
  if (headers['transfer-encoding'] !== undefined || !/^\d{1,15}$/.test(text)) return undefined;
  const bytes = Number(text);
  return bytes >= LONG_BYTES ? bytes : undefined;
}
