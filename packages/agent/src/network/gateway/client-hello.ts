/**
 * The name that a TLS client says it wants, out of the first bytes that it sends (RFC 8446, 4.1.2; RFC 6066, 3). The
 * bytes come from a guest: every length is checked, all work is in proportion to what was sent, and what is not
 * exactly as the standard has it is refused.
 */
import { parseHostName } from '@wrenn/host';

export type Hello =
  | { readonly kind: 'more' }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'refused'; readonly why: string };

export interface HelloReader {
  /** What is known after these bytes too. Not to be called again once it is more than `more`. */
  push(chunk: Uint8Array): Hello;
  /** All that was pushed, to be sent on. */
  raw(): Buffer;
}

const RECORD_HEADER_BYTES = 5;
const HANDSHAKE_HEADER_BYTES = 4;
const HANDSHAKE = 22;
const CLIENT_HELLO = 1;
const RECORD_MAX_BYTES = 2 ** 14;
const FIRST_BYTES = 2048;

const SERVER_NAME = 0;
/** Encrypted client hello: the name in the open is then not the one that is wanted. */
const ENCRYPTED_CLIENT_HELLO = 0xfe0d;
const HOST_NAME = 0;

const MORE: Hello = { kind: 'more' };

/** Bytes without a hello at their beginning are refused beyond `maxBytes`. */
export function createHelloReader(maxBytes: number): HelloReader {
  const raw = growing();
  const message = growing();
  /** Where in `raw` the next record begins. */
  let recordAt = 0;

  const readRecords = (): Hello => {
    const bytes = raw.bytes();
    for (;;) {
      if (bytes.length >= recordAt + 1 && bytes[recordAt] !== HANDSHAKE) return refused('it is not TLS');
      if (bytes.length < recordAt + RECORD_HEADER_BYTES) return MORE;
      const length = bytes.readUInt16BE(recordAt + 3);
      if (bytes[recordAt + 1] !== 3 || length === 0 || length > RECORD_MAX_BYTES) {
        return refused('it is not TLS');
      }
      const end = recordAt + RECORD_HEADER_BYTES + length;
      if (bytes.length < end) return MORE;
      message.append(bytes.subarray(recordAt + RECORD_HEADER_BYTES, end));
      recordAt = end;
      const hello = readMessage(message.bytes(), maxBytes);
      if (hello.kind !== 'more') return hello;
    }
  };

  return {
    push: (chunk) => {
      raw.append(chunk);
      const hello = readRecords();
      if (hello.kind === 'more' && raw.bytes().length > maxBytes) return refused('its hello is too long');
      return hello;
    },
    raw: () => raw.bytes(),
  };
}

function readMessage(message: Buffer, maxBytes: number): Hello {
  if (message.length >= 1 && message[0] !== CLIENT_HELLO) return refused('it does not begin with a hello');
  if (message.length < HANDSHAKE_HEADER_BYTES) return MORE;
  const length = message.readUIntBE(1, 3);
  if (length > maxBytes) return refused('its hello is too long');
  if (message.length < HANDSHAKE_HEADER_BYTES + length) return MORE;
  const body = message.subarray(HANDSHAKE_HEADER_BYTES, HANDSHAKE_HEADER_BYTES + length);
  try {
    return readHello(cursor(body));
  } catch (error) {
    if (error instanceof RangeError) return refused('its hello is malformed');
    throw error;
  }
}

/** Throws a RangeError where a length leads beyond the end. */
function readHello(hello: Cursor): Hello {
  hello.take(2 + 32); // version and random
  hello.vector(1); // session
  hello.vector(2); // cipher suites
  hello.vector(1); // compression methods
  if (hello.left() === 0) return refused('it names no server');
  const extensions = cursor(hello.vector(2));
  if (hello.left() !== 0) return refused('its hello is malformed');
  let name: Buffer | undefined;
  while (extensions.left() > 0) {
    const type = extensions.take(2).readUInt16BE(0);
    const data = extensions.vector(2);
    if (type === ENCRYPTED_CLIENT_HELLO) return refused('it hides the name of its server');
    if (type !== SERVER_NAME) continue;
    // Two of them, and the server may read the other one.
    if (name !== undefined) return refused('it names several servers');
    const names = cursor(cursor(data, 2).vector(2));
    if (names.take(1)[0] !== HOST_NAME) return refused('it names no server');
    name = names.vector(2);
    if (names.left() !== 0) return refused('it names several servers');
  }
  if (name === undefined) return refused('it names no server');
  const parsed = parseHostName(name.toString('latin1'));
  return parsed === undefined ? refused('what it names is no host') : { kind: 'name', name: parsed };
}

interface Cursor {
  left(): number;
  take(count: number): Buffer;
  /** As many bytes as the number before them says, which has so many bytes itself. */
  vector(lengthBytes: number): Buffer;
}

/** With `lengthBytes` all of it must be one vector. */
function cursor(bytes: Buffer, lengthBytes?: number): Cursor {
  if (lengthBytes !== undefined) {
    if (bytes.length < lengthBytes) throw new RangeError('too short');
    if (bytes.readUIntBE(0, lengthBytes) !== bytes.length - lengthBytes)
      throw new RangeError('of another length');
  }
  let at = 0;
  const take = (count: number): Buffer => {
    if (count > bytes.length - at) throw new RangeError('too short');
    at += count;
    return bytes.subarray(at - count, at);
  };
  return {
    left: () => bytes.length - at,
    take,
    vector: (size) => take(take(size).readUIntBE(0, size)),
  };
}

/** Bytes that are added to: twice the room each time it is used up, so that many small pieces cost no more than one. */
function growing() {
  let room = Buffer.alloc(FIRST_BYTES);
  let used = 0;
  return {
    append: (chunk: Uint8Array): void => {
      if (used + chunk.length > room.length) {
        const larger = Buffer.alloc(Math.max(2 * room.length, used + chunk.length));
        room.copy(larger, 0, 0, used);
        room = larger;
      }
      room.set(chunk, used);
      used += chunk.length;
    },
    bytes: (): Buffer => room.subarray(0, used),
  };
}

function refused(why: string): Hello {
  return { kind: 'refused', why };
}
