/** Connections to a server that break; what the store does with one that works is in the other tests. */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { expect, it } from 'vitest';
import { openDatabase } from './open.ts';

/** "Come in", and "ask": the two messages that a client waits for (frontend/backend protocol 3.0, message formats). */
const WELCOME = Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 0, 0x5a, 0, 0, 0, 5, 0x49]);

// What nobody listened to would end the process, and this test run with it.
it.each([
  ['ends', (socket: Socket) => socket.end()],
  ['is reset', (socket: Socket) => socket.resetAndDestroy()],
])('a connection that %s in the middle of a query fails that query alone', async (_, stop) => {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => {
      socket.write(WELCOME);
      socket.once('data', () => stop(socket));
    });
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const { port } = server.address() as AddressInfo;
  const opening = openDatabase({
    databaseUrl: `postgres://nobody:none@127.0.0.1:${port}/none`,
    maxConnections: 2,
    dataDir: '/nonexistent',
  });
  await expect(opening).rejects.toMatchObject({ code: 'store_unavailable' });
  await new Promise((resolve) => setTimeout(resolve, 50));
  server.close();
});
