import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, expect, it } from 'vitest';
import { sendShortInit } from './short-init.ts';

const never = new AbortController().signal;
const sockets: Socket[] = [];
afterEach(() => {
  refusals = [];
  for (const socket of sockets.splice(0)) socket.close();
});

async function guest(...answers: string[]): Promise<{ port: number; seen: string[] }> {
  const socket = createSocket('udp4');
  sockets.push(socket);
  const seen: string[] = [];
  socket.on('message', (message, { port, address }) => {
    seen.push(message.toString());
    for (const answer of answers) socket.send(answer, port, address);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  return { port: socket.address().port, seen };
}

let refusals: string[] = [];
const init = {
  host: '127.0.0.1',
  token: 'known',
  body: '{"a":1}',
  timeoutMs: 10_000,
  listenMs: 10_000,
  onRefused: (why: string) => refusals.push(why),
  signal: never,
};
const close = { close: expect.any(Function) };

it('is acknowledged by a guest that knows of it', async () => {
  const { port, seen } = await guest('ok');
  const acknowledged = await sendShortInit({ ...init, port });
  expect(acknowledged).toEqual(close);
  acknowledged?.close();
  acknowledged?.close();
  expect(seen).toEqual(['known\n{"a":1}']);
});

it('is given up where nobody answers, and when the caller gives up', async () => {
  const { port, seen } = await guest();
  expect(await sendShortInit({ ...init, port, timeoutMs: 20 })).toBeUndefined();
  const leaving = new AbortController();
  const waiting = sendShortInit({ ...init, port, signal: leaving.signal });
  leaving.abort();
  expect(await waiting).toBeUndefined();
  expect(await sendShortInit({ ...init, port, signal: leaving.signal })).toBeUndefined();
  expect(seen.length).toBeLessThan(3);
});

it('tells of a refusal that comes behind the acknowledgement, once and as long as somebody listens', async () => {
  const { port } = await guest('ok', 'what', 'no room\nat all', 'no more');
  const acknowledged = await sendShortInit({ ...init, port });
  await expect.poll(() => refusals).toEqual(['room\nat all']);
  acknowledged?.close();
  const left = await sendShortInit({ ...init, port });
  left?.close();
  expect(await sendShortInit({ ...init, port, listenMs: 0 })).toEqual(close);
  const another = await guest('ok');
  (await sendShortInit({ ...init, port: another.port }))?.close();
  expect(refusals.length).toBeLessThan(3);
});

it('is given up where a refusal comes without its acknowledgement', async () => {
  const { port } = await guest('no room');
  const startedAt = performance.now();
  expect(await sendShortInit({ ...init, port })).toBeUndefined();
  expect(performance.now() - startedAt).toBeLessThan(5_000);
  expect(refusals).toEqual([]);
});

it('is given up at once where the host says that nobody listens', async () => {
  const { port } = await guest();
  sockets.pop()?.close();
  const startedAt = performance.now();
  expect(await sendShortInit({ ...init, port })).toBeUndefined();
  expect(performance.now() - startedAt).toBeLessThan(5_000);
});

it('is not sent where it would not fit', async () => {
  const { port, seen } = await guest('ok');
  expect(await sendShortInit({ ...init, port, body: 'x'.repeat(1500) })).toBeUndefined();
  expect(seen).toEqual([]);
});
