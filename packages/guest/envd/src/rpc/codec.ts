/** Messages to and from bytes, in the two formats of the protocol. */
import {
  create,
  type DescMessage,
  fromBinary,
  fromJson,
  type JsonValue,
  type Message,
  type MessageInitShape,
  toBinary,
  toJsonString,
} from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';

export type Format = 'json' | 'proto';

/** For services that carry many bytes: in JSON these are base64, which the general way makes slowly. */
export interface FastJson {
  /** The message as JSON; undefined for one without many bytes. */
  stringify(message: Message): string | undefined;
  /** The message of a parsed JSON; undefined for one without many bytes, or that is not as expected. */
  parse(type: DescMessage, json: JsonValue): Message | undefined;
}

export function encode<T extends DescMessage>(
  type: T,
  init: MessageInitShape<T>,
  format: Format,
  fast: FastJson | undefined,
): Uint8Array | string {
  const message = create(type, init);
  if (format === 'proto') return toBinary(type, message);
  return fast?.stringify(message) ?? toJsonString(type, message);
}

/** Throws `invalid_argument` for bytes that are no such message. Unknown JSON fields are passed over. */
export function decode(
  type: DescMessage,
  bytes: Uint8Array,
  format: Format,
  fast: FastJson | undefined,
): Message {
  try {
    if (format === 'proto') return fromBinary(type, bytes);
    const json: JsonValue = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    return fast?.parse(type, json) ?? fromJson(type, json, { ignoreUnknownFields: true });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ConnectError(`cannot decode ${type.typeName}: ${reason.slice(0, 500)}`, Code.InvalidArgument);
  }
}
