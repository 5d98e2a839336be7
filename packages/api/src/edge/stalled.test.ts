/** Who is cut for taking nothing, and who is not. Over real sockets. */
import { once } from 'node:events';
import type { ClientRequest, IncomingMessage, Server } from 'node:http';
import { connect as connectHttp2, constants, createServer as createHttp2Server } from 'node:http2';
import { connect, type Server as NetServer, type Socket } from 'node:net';
import { expect, it } from 'vitest';
import { SANDBOX_ID as ID, listening, portOf, useEdge } from '../testing/edge-scene.ts';
import { flood } from '../testing/flood.ts';

const STALL_MS = 600;
const { scene, ask } = useEdge({ stallTimeoutMs: STALL_MS });

const pass = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const nothingIsHeld = async (): Promise<void> => {
  await expect.poll(() => scene.edge.counts().open, { timeout: 5000 }).toBe(0);
  await expect.poll(() => scene.guestSockets.size).toBe(0);
};
async function begin(outgoing: ClientRequest): Promise<IncomingMessage> {
  outgoing.end();
  const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
  return answer;
}

it.each([
  ['a stream', 0, {}],
  ['a stream, silent at first,', 1.5 * STALL_MS, {}],
  // Its rest goes past the parser.
  ['a long answer', 0, { 'Content-Length': 256 * 1024 * 1024 }],
])('ends %s of which nothing is taken', async (_, silentMs, headers) => {
  scene.serve = async (_incoming, outgoing) => {
    outgoing.writeHead(200, headers).flushHeaders();
    await pass(silentMs);
    flood(outgoing);
  };
  const answer = await begin(ask('/'));
  const broken = once(answer, 'error');
  answer.pause();
  await nothingIsHeld();
  answer.resume();
  expect((await broken)[0]).toMatchObject({ code: 'ECONNRESET' });
  expect(scene.logged).toMatchObject([{ status: 200, aborted: true }]);
});

it('ends a stream of HTTP/2 of which nothing is taken, and no other of its connection', async () => {
  scene.serve = async (incoming, outgoing) => {
    outgoing.write('begun');
    if (incoming.url === '/silent') return;
    await pass(1.5 * STALL_MS);
    flood(outgoing);
  };
  const server = createHttp2Server((incoming, outgoing) => {
    const address = scene.edge.addressOf(incoming);
    if (address !== undefined) void scene.edge.handle(address, incoming, outgoing);
  });
  const port = portOf(await listening(server as NetServer as Server));
  const session = connectHttp2(`http://127.0.0.1:${port}`);
  const get = (path: string) =>
    session.request({ ':path': path, ':authority': `${portOf(scene.guest)}-${ID}.wrenn.test` });
  const [stalled, silent] = [get('/'), get('/silent')];
  await Promise.all([once(silent, 'data'), once(stalled, 'response')]);
  stalled.on('error', () => {}).pause();
  await expect.poll(() => stalled.rstCode, { timeout: 5000 }).toBe(constants.NGHTTP2_INTERNAL_ERROR);
  expect([silent.closed, scene.edge.counts().open]).toEqual([false, 1]);
  session.destroy();
  await nothingIsHeld();
  server.close();
});

it('ends a websocket of which nothing is taken', async () => {
  scene.guest.on('upgrade', async (_incoming, socket: Socket) => {
    socket.on('error', () => {});
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: flood\r\nConnection: Upgrade\r\n\r\n');
    await pass(1.5 * STALL_MS);
    flood(socket);
  });
  const outgoing = ask('/', { headers: { Connection: 'Upgrade', Upgrade: 'flood' } });
  outgoing.end();
  const [, socket] = (await once(outgoing, 'upgrade')) as [IncomingMessage, Socket];
  socket.on('error', () => {}).pause();
  await nothingIsHeld();
});

it('lets an answer be silent, and go on', async () => {
  scene.serve = async (_, outgoing) => {
    outgoing.write('one');
    await pass(2 * STALL_MS);
    outgoing.end('two');
  };
  const answer = await begin(ask('/'));
  expect(Buffer.concat(await answer.toArray()).toString()).toBe('onetwo');
});

it('lets a client be slow that takes something now and then', async () => {
  scene.serve = (_, outgoing) => void flood(outgoing);
  const answer = await begin(ask('/'));
  let sizeBytes = 0;
  answer
    .on('error', () => {})
    .on('data', (piece: Buffer) => {
      sizeBytes += piece.length;
    });
  for (let n = 0; n < 12; n += 1) {
    const before = sizeBytes;
    answer.resume();
    await expect.poll(() => sizeBytes, { interval: 1 }).toBeGreaterThan(before + 8 * 1024 * 1024);
    answer.pause();
    await pass(STALL_MS / 4);
  }
  expect(scene.logged).toEqual([]);
  answer.destroy();
});

it('leaves a connection alone that is kept for the next request', async () => {
  const socket = connect(portOf(scene.front), '127.0.0.1').on('error', () => {});
  const get = `GET / HTTP/1.1\r\nHost: ${portOf(scene.guest)}-${ID}.wrenn.test\r\n\r\n`;
  for (let round = 0; round < 2; round += 1) {
    socket.write(get);
    expect(String((await once(socket, 'data'))[0])).toContain('200 OK');
    await pass(1.5 * STALL_MS);
  }
  expect(socket.readyState).toBe('open');
  socket.destroy();
});
