/** A Connect client of a few lines, so that tests see the bytes and can misbehave. */
import type { DescMessage, JsonValue, MessageShape } from '@bufbuild/protobuf';
import { fromBinary } from '@bufbuild/protobuf';

export interface Frame {
  readonly flags: number;
  readonly payload: Uint8Array;
}

export function envelope(payload: Uint8Array | JsonValue, flags = 0): Uint8Array<ArrayBuffer> {
  const bytes = payload instanceof Uint8Array ? payload : new TextEncoder().encode(JSON.stringify(payload));
  const framed = new Uint8Array(5 + bytes.length);
  const view = new DataView(framed.buffer);
  view.setUint8(0, flags);
  view.setUint32(1, bytes.length);
  framed.set(bytes, 5);
  return framed;
}

export async function* frames(body: AsyncIterable<Uint8Array> | null): AsyncGenerator<Frame> {
  let held = new Uint8Array(0);
  for await (const chunk of body ?? []) {
    held = Buffer.concat([held, chunk]);
    for (;;) {
      if (held.length < 5) break;
      const view = new DataView(held.buffer, held.byteOffset);
      const end = 5 + view.getUint32(1);
      if (held.length < end) break;
      yield { flags: view.getUint8(0), payload: held.slice(5, end) };
      held = held.slice(end);
    }
  }
}

export interface CallOptions {
  readonly headers?: Record<string, string>;
  readonly signal?: AbortSignal;
}

/** A unary call in JSON: its status and body. */
export async function unary(
  url: string,
  method: string,
  message: JsonValue,
  options: CallOptions = {},
): Promise<{ status: number; body: Record<string, unknown> }> {
  const response = await fetch(`${url}/${method}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'Connect-Protocol-Version': '1', ...options.headers },
    body: JSON.stringify(message),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
  const text = await response.text();
  return { status: response.status, body: text === '' ? {} : JSON.parse(text) };
}

/** A server stream in JSON: the response, with the body not yet read. */
export function stream(
  url: string,
  method: string,
  message: JsonValue,
  options: CallOptions = {},
): Promise<Response> {
  return fetch(`${url}/${method}`, {
    method: 'POST',
    headers: {
      'Content-Type': 'application/connect+json',
      'Connect-Protocol-Version': '1',
      ...options.headers,
    },
    body: envelope(message),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
}

export type JsonEvent = Record<string, Record<string, unknown>>;

export interface Finished {
  /** The kinds of events in their order, repeated ones once. */
  readonly order: string[];
  readonly stdout: string;
  readonly stderr: string;
  readonly pid: number;
  readonly end: Record<string, unknown> | undefined;
  readonly error: Record<string, unknown> | undefined;
}

/** Reads a process's stream to its end frame. `onKind` is called and waited for where another kind of event begins. */
export async function finish(
  response: Response,
  onKind: (kind: string) => Promise<unknown> = async () => {},
): Promise<Finished> {
  const order: string[] = [];
  let stdout = '';
  let stderr = '';
  let pid = 0;
  let end: Record<string, unknown> | undefined;
  for await (const { flags, payload } of frames(response.body)) {
    const json = JSON.parse(new TextDecoder().decode(payload));
    if ((flags & 2) !== 0) return { order, stdout, stderr, pid, end, error: json.error };
    const event: JsonEvent = json.event;
    const [kind = ''] = Object.keys(event);
    const isNew = order.at(-1) !== kind;
    if (isNew) order.push(kind);
    if (event.start !== undefined) pid = Number(event.start.pid);
    if (event.data !== undefined) {
      stdout += Buffer.from(String(event.data.stdout ?? ''), 'base64').toString();
      stderr += Buffer.from(String(event.data.stderr ?? ''), 'base64').toString();
    }
    end ??= event.end;
    if (isNew) await onKind(kind);
  }
  throw new Error('the stream ended without its end frame');
}

/** The messages of a binary stream, without the end frame. */
export async function* binaryMessages<T extends DescMessage>(
  response: Response,
  type: T,
): AsyncGenerator<MessageShape<T>> {
  for await (const { flags, payload } of frames(response.body)) {
    if ((flags & 2) === 0) yield fromBinary(type, payload);
  }
}
