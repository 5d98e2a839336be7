import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, expect, it } from 'vitest';
import { askGuest, type GuestQuestion } from './ask-guest.ts';

let server: Server | undefined;
const sockets = new Set<Socket>();
afterEach(() => {
  for (const socket of sockets) socket.destroy();
  server?.close();
});

async function guest(answer: string | undefined): Promise<Pick<GuestQuestion, 'address' | 'port'>> {
  server = createServer((socket) => {
    sockets.add(socket.on('error', () => {}));
    socket.once('data', () => answer === undefined || socket.end(answer));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { address: '127.0.0.1', port: (server.address() as AddressInfo).port };
}

const question = {
  token: 'token',
  method: 'GET',
  path: '/metrics',
  timeoutMs: 10_000,
  maxBytes: 10,
  signal: new AbortController().signal,
} as const;
const collectGarbage = (): void => {
  setFlagsFromString('--expose-gc');
  runInNewContext('gc')();
};

it('has its answer, or none', async () => {
  const ok = await guest('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello');
  expect(await askGuest({ ...question, ...ok })).toEqual({ status: 200, text: 'hello' });
  for (const wrong of [
    '',
    'hello',
    'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello',
    `HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n${'a'.repeat(11)}`,
    'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n',
  ]) {
    await expect(askGuest({ ...question, ...(await guest(wrong)) }), wrong).rejects.toThrow();
  }
});

it('does not wait for a guest that says nothing, whatever is collected as garbage meanwhile', async () => {
  const silent = await guest(undefined);
  const asked = askGuest({ ...question, ...silent, timeoutMs: 200 }).catch((error: Error) => error.message);
  await sleep(50);
  collectGarbage();
  expect(await Promise.race([asked, sleep(3000, 'still waiting')])).toContain('in time');
  const leaving = new AbortController();
  const left = askGuest({ ...question, ...silent, signal: leaving.signal });
  leaving.abort();
  await expect(left).rejects.toThrow();
});
