/**
 * What Connect refuses by itself, before any of our code sees the request (a message that is too large, or no
 * message at all), told the way we tell errors: with a code of ours, and as the sender's mistake.
 */
import { Code, ConnectError } from '@connectrpc/connect';
import type { UniversalServerResponse } from '@connectrpc/connect/protocol';
import { codeToHttpStatus, errorFromJsonBytes, errorToJsonBytes } from '@connectrpc/connect/protocol-connect';
import { WrennError } from '@wrenn/protocol';
import { fromConnectError, toConnectError } from './errors.ts';

const ERROR_MAX_BYTES = 256 * 1024;
const NO_ERROR_AT_ALL = new ConnectError('not an error', Code.Unknown);

/** Connect's own words for what it could not decode; it calls that an internal error. */
export function isUndecodable(error: ConnectError): boolean {
  return error.code === Code.Internal && /^parse (binary|JSON)|^cannot decode/i.test(error.rawMessage);
}

/** As one of ours, whoever threw it. */
export function presentable(error: ConnectError): WrennError {
  if (!isUndecodable(error)) return fromConnectError(error);
  return new WrennError('invalid_argument', 'A message could not be decoded.', {
    hint: 'Client and agent may be of different versions.',
    cause: error,
  });
}

/** The answer itself, unless it is a unary error without our detail. */
export async function withOwnError(answer: UniversalServerResponse): Promise<UniversalServerResponse> {
  const { status, header, body } = answer;
  const isError = status >= 400 && header?.get('content-type') === 'application/json';
  if (!isError || body === undefined) return answer;
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of body) {
    sizeBytes += chunk.length;
    if (sizeBytes <= ERROR_MAX_BYTES) chunks.push(chunk);
  }
  const bytes = Buffer.concat(chunks);
  const error = parse(bytes);
  if (error === undefined || error.details.length > 0) return { ...answer, body: once(bytes) };
  const own = toConnectError(presentable(error));
  const ownBytes = errorToJsonBytes(own, undefined);
  const ownHeader = new Headers(header);
  ownHeader.set('content-length', String(ownBytes.length));
  return { ...answer, status: codeToHttpStatus(own.code), header: ownHeader, body: once(ownBytes) };
}

function parse(bytes: Uint8Array): ConnectError | undefined {
  try {
    return errorFromJsonBytes(bytes, undefined, NO_ERROR_AT_ALL);
  } catch {
    return undefined;
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
