/** Calls: from an HTTP request to a service's method and back. */
import type { DescService } from '@bufbuild/protobuf';
import {
  Code,
  ConnectError,
  createHandlerContext,
  createServiceImplSpec,
  type MethodImplSpec,
  type ServiceImpl,
} from '@connectrpc/connect';
import type { Lives } from '../lives.ts';
import { decode, encode, type FastJson, type Format } from './codec.ts';
import { encodeEnvelope, FLAG_END, readEnvelopes, tooLarge } from './envelope.ts';
import { toWireError } from './status.ts';

export type RpcRoute = (request: Request) => Promise<Response>;

/** The most that one message may hold: a unary request, or one message of a stream. */
export const MESSAGE_MAX_BYTES = 32 * 1024 * 1024;

const TIMEOUT_HEADER = 'Connect-Timeout-Ms';
/** Longer than this (24 days) no timer runs; it counts as no deadline. */
const TIMEOUT_MAX_MS = 2 ** 31 - 1;

export interface RpcOptions {
  /** A call ends with the life in which it came, with `unavailable` for whoever is still there. */
  readonly lives: Lives;
  readonly fast?: FastJson;
}

/** The service's paths and what answers there; a method without an implementation answers `unimplemented`. */
export function createRpcRoutes<T extends DescService>(
  service: T,
  implementation: Partial<ServiceImpl<T>>,
  options: RpcOptions,
): [path: string, route: RpcRoute][] {
  const { methods } = createServiceImplSpec(service, implementation);
  return Object.values(methods).map((method) => [
    `/${service.typeName}/${method.method.name}`,
    (request) => answer(method, request, options),
  ]);
}

async function answer(spec: MethodImplSpec, request: Request, options: RpcOptions): Promise<Response> {
  if (request.method !== 'POST') return new Response(null, { status: 405, headers: { Allow: 'POST' } });
  const isStream = spec.kind !== 'unary';
  const format = requestFormat(request.headers.get('Content-Type'), isStream);
  if (format === undefined) return new Response(null, { status: 415, headers: acceptPost(isStream) });
  return isStream
    ? answerStream(spec, request, format, options)
    : answerUnary(spec, request, format, options);
}

type Spec<K extends MethodImplSpec['kind']> = Extract<MethodImplSpec, { kind: K }>;
type StreamSpec = Exclude<MethodImplSpec, { kind: 'unary' }>;
type CallContext = ReturnType<typeof createHandlerContext>;

async function answerUnary(
  spec: Spec<'unary'>,
  request: Request,
  format: Format,
  { lives, fast }: RpcOptions,
): Promise<Response> {
  const { method, impl } = spec;
  let call: CallContext | undefined;
  try {
    call = callContext(spec, request, lives.current);
    refuseCompression(request.headers.get('Content-Encoding'));
    const message = decode(method.input, await readAll(request, call.signal), format, fast);
    const body = encode(method.output, await impl(message, call), format, fast);
    call.responseHeader.set('Content-Type', `application/${format}`);
    return new Response(bodyOf(body), { headers: call.responseHeader });
  } catch (error) {
    const { httpStatus, json } = toWireError(error, method.name);
    return Response.json(json, { status: httpStatus });
  } finally {
    call?.abort();
  }
}

function answerStream(
  spec: StreamSpec,
  request: Request,
  format: Format,
  { lives, fast }: RpcOptions,
): Response {
  const life = lives.current;
  let call: CallContext | undefined;

  async function* run(): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    call = callContext(spec, request, life);
    refuseCompression(request.headers.get('Connect-Content-Encoding'));
    const inputs = decodeAll(spec, piecesOf(request, call.signal), format, fast);
    for await (const output of invoke(spec, inputs, call)) {
      yield encodeEnvelope(0, encode(spec.method.output, output, format, fast));
    }
  }

  const envelopes = run();
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      let end = '{}';
      try {
        const next = await envelopes.next();
        if (!next.done) {
          controller.enqueue(next.value);
          return;
        }
      } catch (error) {
        end = JSON.stringify({ error: toWireError(error, spec.method.name).json });
      }
      call?.abort();
      controller.enqueue(encodeEnvelope(FLAG_END, end));
      controller.close();
    },
    async cancel(reason) {
      // Ends what the method waits for, so that it comes to its `finally`.
      call?.abort(reason instanceof Error ? reason : new ConnectError('the caller has left', Code.Canceled));
      await envelopes.return(undefined);
    },
  });
  return new Response(body, { headers: { 'Content-Type': `application/connect+${format}` } });
}

async function* decodeAll(
  spec: StreamSpec,
  pieces: AsyncIterable<Uint8Array>,
  format: Format,
  fast: FastJson | undefined,
) {
  for await (const bytes of readEnvelopes(pieces, MESSAGE_MAX_BYTES)) {
    yield decode(spec.method.input, bytes, format, fast);
  }
}

async function* invoke(spec: StreamSpec, inputs: ReturnType<typeof decodeAll>, call: CallContext) {
  switch (spec.kind) {
    case 'server_streaming': {
      const { value } = await inputs.next();
      if (value === undefined) throw new ConnectError('the request has no message', Code.InvalidArgument);
      yield* spec.impl(value, call);
      break;
    }
    case 'client_streaming':
      yield await spec.impl(inputs, call);
      break;
    case 'bidi_streaming':
      yield* spec.impl(inputs, call);
      break;
  }
}

/** The body as it comes. Throws the reason of `signal` once it aborts, also where nothing comes any more. */
async function* piecesOf(request: Request, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const reader = request.body?.getReader();
  if (reader === undefined) return;
  // A read that waits ends with this; rejects with what the read has told already.
  const giveUp = () => void reader.cancel(signal.reason).catch(() => {});
  signal.addEventListener('abort', giveUp, { once: true });
  try {
    for (;;) {
      signal.throwIfAborted();
      const { done, value } = await reader.read();
      signal.throwIfAborted();
      if (done) return;
      yield value;
    }
  } finally {
    signal.removeEventListener('abort', giveUp);
  }
}

function callContext({ method }: MethodImplSpec, request: Request, life: AbortSignal): CallContext {
  const timeoutMs = callTimeoutMs(request.headers);
  return createHandlerContext({
    service: method.parent,
    method,
    protocolName: 'connect',
    requestMethod: request.method,
    url: request.url,
    requestSignal: request.signal,
    shutdownSignal: life,
    requestHeader: request.headers,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
}

/** 0 means none, as to E2B's envd, and not that the deadline has passed. */
function callTimeoutMs(headers: Headers): number | undefined {
  const text = headers.get(TIMEOUT_HEADER);
  if (text === null) return undefined;
  if (!/^\d{1,10}$/.test(text))
    throw new ConnectError(`${TIMEOUT_HEADER} is no number`, Code.InvalidArgument);
  const timeoutMs = Number(text);
  return timeoutMs > 0 && timeoutMs <= TIMEOUT_MAX_MS ? timeoutMs : undefined;
}

function requestFormat(contentType: string | null, isStream: boolean): Format | undefined {
  const [, stream, format] =
    /^application\/(connect\+)?(json|proto)\s*(?:;\s*charset=utf-?8\s*)?$/i.exec(contentType ?? '') ?? [];
  if (format === undefined || (stream !== undefined) !== isStream) return undefined;
  return format.toLowerCase() === 'json' ? 'json' : 'proto';
}

function acceptPost(isStream: boolean): Record<string, string> {
  const prefix = isStream ? 'application/connect+' : 'application/';
  return { 'Accept-Post': `${prefix}json, ${prefix}proto` };
}

function refuseCompression(encoding: string | null): void {
  if (encoding === null || encoding === '' || encoding === 'identity') return;
  throw new ConnectError(
    `unknown compression "${encoding}": supported encodings are identity`,
    Code.Unimplemented,
  );
}

async function readAll(request: Request, signal: AbortSignal): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of piecesOf(request, signal)) {
    bytes += piece.byteLength;
    if (bytes > MESSAGE_MAX_BYTES) throw tooLarge(MESSAGE_MAX_BYTES);
    pieces.push(piece);
  }
  return Buffer.concat(pieces, bytes);
}

function bodyOf(bytes: Uint8Array | string): Uint8Array<ArrayBuffer> | string {
  return typeof bytes === 'string' ? bytes : new Uint8Array(bytes);
}
