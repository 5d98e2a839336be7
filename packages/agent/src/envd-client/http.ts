/** Plain HTTP to the guest: bounded answers, a limit on standing still, no redirects. */
import { type Agent, request as httpRequest, type IncomingMessage } from 'node:http';
import { WrennError } from '@wrenn/protocol';
import { abortReason, throwIfAborted } from '../signals/signals.ts';
import { misbehaved, unreachable } from './guest-errors.ts';

export interface HttpCall {
  readonly host: string;
  readonly port: number;
  readonly agent: Agent;
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: AsyncIterable<Uint8Array> | Uint8Array;
  /** The longest time in which nothing may move, in either direction. */
  readonly stallMs: number;
  readonly signal: AbortSignal;
}

export interface HttpAnswer {
  readonly status: number;
  /** Paused until it is read; destroyed with the call's signal. */
  readonly body: IncomingMessage;
}

/** Sends the body at the pace at which the guest takes it. Settles when the guest's answer has begun. */
export async function sendHttp(call: HttpCall): Promise<HttpAnswer> {
  throwIfAborted(call.signal);
  const request = httpRequest({
    host: call.host,
    port: call.port,
    agent: call.agent,
    method: call.method,
    path: call.path,
    headers: call.headers,
  });
  let failure: WrennError | undefined;
  const fail = (error: WrennError): void => {
    failure ??= error;
    request.destroy();
  };
  const onAbort = (): void => fail(abortReason(call.signal));
  call.signal.addEventListener('abort', onAbort, { once: true });
  request.once('close', () => call.signal.removeEventListener('abort', onAbort));

  const watch = createStallWatch(call.stallMs, fail);
  const answered = new Promise<HttpAnswer>((resolve, reject) => {
    request.once('response', (body) => {
      // Nobody wants the rest of a request that was answered before its end, and its connection is of no use.
      body.once('close', () => request.writableFinished || request.destroy());
      resolve({ status: body.statusCode ?? 0, body });
    });
    request.on('error', (error) => reject(failure ?? unreachable('the connection failed', error)));
    request.once('close', () => reject(failure ?? unreachable('the connection was closed', undefined)));
  });
  try {
    watch.begin();
    // An early answer (the disk is full, say) ends the sending; the answer is what counts.
    await Promise.race([answered, sendBody(request, call.body, watch)]);
    watch.begin();
    return await answered;
  } catch (error) {
    request.destroy();
    // Whichever of the two failed first, the other one's outcome is of no interest.
    answered.catch(() => {});
    throw failure ?? error;
  } finally {
    watch.end();
  }
}

/** The body, chunk by chunk, at the reader's pace. Leaving early ends the connection. */
export async function* readBody(
  answer: HttpAnswer,
  stallMs: number,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const { body } = answer;
  const fail = (error: WrennError): void => {
    body.destroy(error);
  };
  const onAbort = (): void => fail(abortReason(signal));
  const watch = createStallWatch(stallMs, fail);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    watch.begin();
    for await (const chunk of body) {
      watch.end();
      if (chunk instanceof Uint8Array) yield chunk;
      watch.begin();
    }
    // A body that ends before its announced length is not the file.
    if (!body.complete) throw unreachable('the answer was cut short', undefined);
  } catch (error) {
    throw error instanceof WrennError ? error : unreachable('the connection failed', error);
  } finally {
    watch.end();
    signal.removeEventListener('abort', onAbort);
    body.destroy();
  }
}

/** The whole body, which must be at most `maxBytes`. */
export async function readText(
  answer: HttpAnswer,
  maxBytes: number,
  stallMs: number,
  signal: AbortSignal,
): Promise<string> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of readBody(answer, stallMs, signal)) {
    sizeBytes += chunk.length;
    if (sizeBytes > maxBytes) throw misbehaved(`its answer is larger than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

async function sendBody(
  request: ReturnType<typeof httpRequest>,
  body: HttpCall['body'],
  watch: StallWatch,
): Promise<void> {
  if (body === undefined || body instanceof Uint8Array) {
    request.end(body);
    return;
  }
  request.flushHeaders();
  watch.end();
  for await (const chunk of body) {
    if (request.destroyed || request.writableEnded) return;
    if (request.write(chunk)) continue;
    watch.begin();
    await drained(request);
    watch.end();
  }
  request.end();
}

function drained(request: ReturnType<typeof httpRequest>): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      request.off('drain', done);
      request.off('close', done);
      resolve();
    };
    request.once('drain', done);
    request.once('close', done);
  });
}

interface StallWatch {
  begin(): void;
  end(): void;
}

/** Only while the guest is waited for: a slow reader on our side is no fault of the guest's. */
function createStallWatch(stallMs: number, fail: (error: WrennError) => void): StallWatch {
  let timer: NodeJS.Timeout | undefined;
  const end = (): void => clearTimeout(timer);
  return {
    begin: () => {
      end();
      timer = setTimeout(() => {
        fail(unreachable(`nothing has moved for ${stallMs} ms`, undefined));
      }, stallMs);
    },
    end,
  };
}
