import { once } from 'node:events';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { GuestStream, HIGH_WATER_MARK_BYTES } from './guest-stream.ts';
import type { Share } from './share.ts';

let server: net.Server;
let guest: net.Socket;
let stream: GuestStream;
let [waits, slices, inShare, outside] = [false, 0, false, 0];
const waiting: (() => void)[] = [];
const run = (work: () => void): void => {
  slices += 1;
  inShare = true;
  work();
  inShare = false;
};
const share: Share = {
  waitMs: () => 0,
  run: (work) => work(),
  inTurn: (work) => {
    if (waits) waiting.push(work);
    else setImmediate(run, work);
  },
};

const connect = async (): Promise<void> => {
  [waits, slices, outside] = [false, 0, 0];
  waiting.length = 0;
  server = net.createServer({ allowHalfOpen: true, highWaterMark: HIGH_WATER_MARK_BYTES });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  guest = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true }).on('error', () => {});
  const [socket] = await once(server, 'connection');
  stream = new GuestStream(socket, share).on('error', () => {});
};
const disconnect = async (): Promise<void> => {
  guest.destroy();
  stream.destroy();
  await new Promise((resolve) => server.close(resolve));
};
beforeEach(connect);
afterEach(disconnect);

it('reads what comes as it came, in slices of the share, to its end', async () => {
  const pieces = fc.array(fc.uint8Array({ minLength: 1, maxLength: 100_000, size: 'max' }), { maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(pieces, fc.boolean(), async (sent, isSlow) => {
      await disconnect();
      await connect();
      const got: Buffer[] = [];
      stream.on('data', (chunk: Buffer) => {
        if (!inShare) outside += 1;
        expect(chunk.length).toBeLessThanOrEqual(16_384);
        got.push(chunk);
        if (!isSlow) return;
        stream.pause();
        setImmediate(() => stream.resume());
      });
      for (const piece of sent) guest.write(piece);
      guest.end();
      await once(stream, 'end');
      expect(Buffer.concat(got).equals(Buffer.concat(sent))).toBe(true);
      if (!isSlow) expect(outside).toBe(0);
      expect(stream.destroyed).toBe(false);
      const closed = once(stream, 'close');
      stream.end('bye');
      const [answer] = await once(guest, 'data');
      expect(String(answer)).toBe('bye');
      await closed;
    }),
    { numRuns: 30 },
  );
});

it('reads nothing while the share is used up, and then what has gathered as one', async () => {
  waits = true;
  const got: string[] = [];
  stream.on('data', (chunk: Buffer) => got.push(String(chunk)));
  guest.write('first');
  await sleep(50);
  for (let n = 0; n < 100; n += 1) {
    guest.write('x');
    await sleep(1);
  }
  expect(got).toEqual([]);
  waits = false;
  for (const work of waiting) run(work);
  await expect.poll(() => got.join('')).toBe(`first${'x'.repeat(100)}`);
  expect(slices).toBeLessThan(10);
});

it('is gone with the guest, and the guest with it', async () => {
  stream.resume();
  guest.resetAndDestroy();
  await once(stream, 'close');
  await disconnect();
  await connect();
  stream.resetAndDestroy();
  const [error] = await once(guest, 'error');
  expect(error.code).toBe('ECONNRESET');
});

it('tells when nothing moves', async () => {
  const told = new Promise<void>((resolve) => stream.setTimeout(30, resolve));
  stream.resume();
  await told;
});
