/** Messages in a stream: a byte of flags, four of length (big endian), then the message. */
import { Code, ConnectError } from '@connectrpc/connect';

const HEADER_BYTES = 5;
const FLAG_COMPRESSED = 0x01;
export const FLAG_END = 0x02;

export function encodeEnvelope(flags: number, payload: Uint8Array | string): Uint8Array<ArrayBuffer> {
  const payloadBytes = Buffer.byteLength(payload);
  const envelope = Buffer.allocUnsafeSlow(HEADER_BYTES + payloadBytes);
  envelope.writeUInt8(flags, 0);
  envelope.writeUInt32BE(payloadBytes, 1);
  if (typeof payload === 'string') envelope.write(payload, HEADER_BYTES);
  else envelope.set(payload, HEADER_BYTES);
  return envelope;
}

/** The messages of a request body. No more is held than one of them and what came with its last piece. */
export async function* readEnvelopes(
  body: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<Uint8Array> {
  let pieces: Uint8Array[] = [];
  let held = 0;
  let wanted = HEADER_BYTES;
  for await (const piece of body) {
    pieces.push(piece);
    held += piece.byteLength;
    while (held >= wanted) {
      const bytes = Buffer.concat(pieces, held);
      const end = HEADER_BYTES + payloadLength(bytes, maxBytes);
      if (held >= end) {
        yield bytes.subarray(HEADER_BYTES, end);
        pieces = [bytes.subarray(end)];
        held -= end;
        wanted = HEADER_BYTES;
      } else {
        pieces = [bytes];
        wanted = end;
      }
    }
  }
  if (held > 0) throw new ConnectError('the stream ends within a message', Code.InvalidArgument);
}

function payloadLength(envelope: Buffer, maxBytes: number): number {
  if ((envelope.readUInt8(0) & FLAG_COMPRESSED) !== 0) {
    throw new ConnectError('compressed messages are not supported', Code.Unimplemented);
  }
  const length = envelope.readUInt32BE(1);
  if (length > maxBytes) throw tooLarge(maxBytes);
  return length;
}

export function tooLarge(maxBytes: number): ConnectError {
  return new ConnectError(`the message is larger than ${maxBytes} bytes`, Code.ResourceExhausted);
}
