import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, expect, it } from 'vitest';
import { sendShortInit } from './short-init.ts';

const never = new AbortController().signal;
const sockets: Socket[] = [];
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.close();
});

async function guest(answer: string | undefined): Promise<{ port: number; seen: string[] }> {
  const socket = createSocket('udp4');
  sockets.push(socket);
  const seen: string[] = [];
  socket.on('message', (message, { port, address }) => {
    seen.push(message.toString());
    if (answer !== undefined) socket.send(answer, port, address);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  return { port: socket.address().port, seen };
}

const init = { host: '127.0.0.1', token: 'known', body: '{"a":1}', timeoutMs: 10_000, signal: never };

it('is acknowledged by a guest that knows of it', async () => {
  const { port, seen } = await guest('ok');
  expect(await sendShortInit({ ...init, port })).toBe(true);
  expect(seen).toEqual(['known\n{"a":1}']);
});

it('is given up where nobody answers, and when the caller gives up', async () => {
  const { port, seen } = await guest(undefined);
  expect(await sendShortInit({ ...init, port, timeoutMs: 20 })).toBe(false);
  const leaving = new AbortController();
  const waiting = sendShortInit({ ...init, port, signal: leaving.signal });
  leaving.abort();
  expect(await waiting).toBe(false);
  expect(await sendShortInit({ ...init, port, signal: leaving.signal })).toBe(false);
  expect(seen.length).toBeLessThan(3);
});

it('is not sent where it would not fit', async () => {
  const { port, seen } = await guest('ok');
  expect(await sendShortInit({ ...init, port, body: 'x'.repeat(1500) })).toBe(false);
  expect(seen).toEqual([]);
});
