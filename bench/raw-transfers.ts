/** The floor of file transfers: plain TCP over the same TAP, with a program in the guest that does the least. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { EnvdClient } from '../packages/agent/src/envd-client/client.ts';
import { TRANSFER_SERVER } from './guest-programs.ts';
import { processOf } from './run-in-guest.ts';

const PORT = 7777;
const CHUNK = Buffer.alloc(64 * 1024, 'w');
const TIMEOUT_MS = 120_000;

export interface RawTransfers {
  up(kind: 'u' | 'U'): Promise<void>;
  down(kind: 'd' | 'D'): Promise<void>;
}

/** Resolves when the guest listens. The program runs until the signal aborts, or the sandbox goes. */
export async function startRawTransfers(
  host: string,
  envd: EnvdClient,
  sizeBytes: number,
  signal: AbortSignal,
): Promise<RawTransfers> {
  const command = ['python3', '-c', TRANSFER_SERVER, String(PORT), String(sizeBytes), '/tmp/raw'];
  const events = envd.startProcess(processOf(command), signal)[Symbol.asyncIterator]();
  for (;;) {
    const { done, value } = await events.next();
    if (done === true || value.event.case === 'end') throw new Error('the transfer server did not start');
    if (value.event.case === 'data' && value.event.value.output.case === 'stdout') break;
  }

  const withSocket = async (work: (socket: Socket) => Promise<void>): Promise<void> => {
    const socket = connect({ host, port: PORT, noDelay: true });
    const limited = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]);
    const onAbort = () => socket.destroy(new Error('the raw transfer was cut off'));
    limited.addEventListener('abort', onAbort, { once: true });
    try {
      await once(socket, 'connect');
      await work(socket);
    } finally {
      limited.removeEventListener('abort', onAbort);
      socket.destroy();
    }
  };
  return {
    up: (kind) =>
      withSocket(async (socket) => {
        const answered = once(socket, 'data');
        answered.catch(() => {});
        socket.write(kind);
        for await (const chunk of chunksOf(sizeBytes)) {
          if (!socket.write(chunk)) await once(socket, 'drain');
        }
        await answered;
      }),
    down: (kind) =>
      withSocket(async (socket) => {
        socket.write(kind);
        let left = sizeBytes;
        for await (const chunk of socket as AsyncIterable<Buffer>) {
          left -= chunk.length;
          if (left <= 0) return;
        }
        throw new Error(`${left} bytes are missing from the raw transfer`);
      }),
  };
}

export async function* chunksOf(sizeBytes: number): AsyncGenerator<Uint8Array> {
  for (let left = sizeBytes; left > 0; left -= CHUNK.length) yield CHUNK;
}
