/**
 * A question to a guest's agent. Guests are hostile: an answer is whole, small and in time, or there is none. No redirect
 * is followed, and no connection kept.
 */
import { request } from 'node:http';

export interface GuestQuestion {
  readonly address: string;
  readonly port: number;
  readonly token: string;
  readonly method: 'GET' | 'POST';
  readonly path: string;
  /** Sent as JSON. */
  readonly body?: object;
  readonly timeoutMs: number;
  readonly maxBytes: number;
  readonly signal: AbortSignal;
}

export interface GuestAnswer {
  readonly status: number;
  readonly text: string;
}

/** A timer of its own: Node 20 collects an AbortSignal.timeout() that is joined with another as garbage. */
export async function askGuest(question: GuestQuestion): Promise<GuestAnswer> {
  const { address, port, token, method, path, body, timeoutMs, maxBytes, signal } = question;
  const payload = body === undefined ? undefined : JSON.stringify(body);
  return await new Promise<GuestAnswer>((resolve, reject) => {
    const call = request({
      host: address,
      port,
      method,
      path,
      agent: false,
      signal,
      headers: {
        'x-access-token': token,
        accept: 'application/json',
        ...(payload === undefined
          ? {}
          : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }),
      },
    });
    const late = setTimeout(() => call.destroy(new Error('The guest did not answer in time.')), timeoutMs);
    call.once('close', () => {
      clearTimeout(late);
      reject(new Error('The guest broke its answer off.'));
    });
    call.once('error', reject);
    call.once('response', (answer) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      answer.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes <= maxBytes) return void chunks.push(chunk);
        // First, as it may be at its end already.
        reject(new Error('The answer is too large.'));
        call.destroy();
      });
      answer.once('error', reject);
      answer.once('end', () =>
        resolve({ status: answer.statusCode ?? 0, text: Buffer.concat(chunks).toString('utf8') }),
      );
    });
    call.end(payload);
  });
}
