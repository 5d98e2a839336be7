/** Ports of the loopback, from outside. The tests' outside is another address of the loopback's. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { type Envd, startEnvd } from './start-envd.ts';

const OUTSIDE = '127.0.0.2';

let envd: Envd;
let program: Server;
let port: number;
let serve: (socket: Socket) => void;

beforeAll(async () => {
  envd = await startEnvd({ args: ['--expose-host', OUTSIDE] });
}, 60_000);
afterAll(() => envd.stop());

beforeEach(async () => {
  serve = (socket) => socket.pipe(socket);
  program = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    serve(socket);
  });
  program.listen(0, '127.0.0.1');
  await once(program, 'listening');
  port = (program.address() as AddressInfo).port;
});
afterEach(() => program.close());

const expose = async (body: unknown) =>
  (await fetch(`${envd.url}/expose`, { method: 'POST', body: JSON.stringify(body) })).status;

async function reach(host = OUTSIDE): Promise<Socket | string> {
  const socket = connect({ host, port, allowHalfOpen: true });
  return new Promise((resolve) => {
    socket.once('connect', () => resolve(socket));
    socket.once('error', (error) => resolve('code' in error ? String(error.code) : 'error'));
  });
}

async function reached(): Promise<Socket> {
  const socket = await reach();
  if (typeof socket === 'string') throw new Error(socket);
  return socket;
}

it('are reached once they were asked for, with half-closed connections', async () => {
  expect(await reach()).toBe('ECONNREFUSED');
  expect(await expose({ port })).toBe(204);
  expect(await expose({ port })).toBe(204);
  const socket = await reached();
  const sent = 'x'.repeat(1_000_000);
  const answer = text(socket);
  socket.end(sent);
  expect((await answer).length).toBe(sent.length);
});

it('are not connected to for a look: their program may serve only one', async () => {
  serve = (socket) => {
    program.close();
    socket.end('once');
  };
  expect(await expose({ port })).toBe(204);
  expect(await text(await reached())).toBe('once');
});

it('are held back by a reader that is slow', async () => {
  let written = 0;
  const piece = Buffer.alloc(64 * 1024);
  serve = (socket) => {
    const more = (): void => {
      while (written < 256 * 1024 * 1024) {
        written += piece.length;
        if (!socket.write(piece)) return void socket.once('drain', more);
      }
    };
    more();
  };
  expect(await expose({ port })).toBe(204);
  const socket = await reached();
  socket.pause();
  let before = -1;
  await expect
    .poll(
      () => {
        const isStill = before === written;
        before = written;
        return isStill;
      },
      { interval: 300, timeout: 10_000 },
    )
    .toBe(true);
  expect(written).toBeLessThan(64 * 1024 * 1024);
  socket.destroy();
});

it('are refused again when their program is gone, and belong to whoever listens there next', async () => {
  expect(await expose({ port })).toBe(204);
  program.close();
  await once(program, 'close');
  expect(await expose({ port })).toBe(404);
  expect(await reach()).toBe('ECONNREFUSED');
  const next = createServer((socket) => socket.on('error', () => {}).end('next')).listen(port, '0.0.0.0');
  await once(next, 'listening');
  expect(await expose({ port })).toBe(204);
  expect(await text(await reached())).toBe('next');
  next.close();
});

it('are free for their program when it is started again, on all addresses', async () => {
  expect(await expose({ port })).toBe(204);
  const client = await reached();
  const ended = text(client);
  client.end('served');
  expect(await ended).toBe('served');
  // It is looked up when a connection ends, and has not ended yet.
  await new Promise((resolve) => setTimeout(resolve, 300));
  program.close();
  await once(program, 'close');
  const next = createServer((socket) => socket.on('error', () => {}).end('again'));
  const again = () =>
    new Promise((resolve) => {
      next.once('error', (error) => resolve('code' in error ? error.code : error));
      next.listen(port, '0.0.0.0', () => resolve('listening'));
    });
  await expect.poll(again, { timeout: 10_000, interval: 200 }).toBe('listening');
  expect(await text(await reached())).toBe('again');
  next.close();
});

it('are no others, and nothing else', async () => {
  for (const body of [{}, { port: 0 }, { port: 65_536 }, { port: 1.5 }, { port: '80' }, [], 'x', null]) {
    expect(await expose(body), JSON.stringify(body)).toBe(400);
  }
  expect(await expose({ port: 1 })).toBe(404);
});
