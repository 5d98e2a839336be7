/** How many connections one address may have, over real ones. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import { type ClientConnections, limitClientConnections, networkOf } from './client-connections.ts';
import { startHarness } from './testing/harness.ts';

const PER_ADDRESS = 3;
const CROWD = 200;
/** How long refusals are being taken at the most (refusals.ts). */
const LAST_WORDS_MS = 2000;
const ASK = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n';

describe('connections of an address', () => {
  const sockets: Socket[] = [];
  let server: Server;
  let clients: ClientConnections;
  let [port, asked] = [0, 0];
  const start = async (): Promise<void> => {
    asked = 0;
    server = createServer((_, response) => {
      asked += 1;
      response.end('served');
    });
    clients = limitClientConnections(server, { perAddress: PER_ADDRESS, isTls: false });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    port = (server.address() as AddressInfo).port;
  };
  afterEach(() => {
    for (const socket of sockets.splice(0)) socket.destroy();
    server.closeAllConnections();
    server.close();
  });

  const open = async (localAddress = '127.0.0.1'): Promise<Socket> => {
    const socket = connect({ host: '127.0.0.1', port, localAddress, allowHalfOpen: true });
    sockets.push(socket.on('error', () => {}));
    await once(socket, 'connect');
    return socket;
  };
  const told = async (socket: Socket): Promise<string> => {
    socket.write(ASK);
    return String((await once(socket, 'data'))[0]);
  };
  const closed = async (socket: Socket): Promise<void> => {
    socket.resume();
    if (!socket.closed) await once(socket, 'close');
  };

  it('are so many, others have theirs, and what is over makes room', async () => {
    await start();
    const own = [await open(), await open(), await open()];
    const last = await told(await open());
    expect(last).toMatch(/^HTTP\/1\.1 429 Too Many Requests\r\n/);
    expect(last).toContain('\r\nRetry-After: 1\r\n');
    expect(JSON.parse(last.split('\r\n\r\n')[1] ?? '')).toEqual({
      code: 429,
      message: 'Too many connections are open from this address.',
    });
    expect(await told(await open('127.0.0.2'))).toContain('served');
    for (const socket of own) expect(await told(socket)).toContain('served');
    // What a refused one asks for is not done.
    expect(asked).toBe(PER_ADDRESS + 1);
    expect(clients.refused()).toBe(1);
    own[0]?.destroy();
    await expect.poll(async () => await told(await open())).toContain('served');
  });

  it('that are one too many are closed, though they never end their side, and hear nothing in a crowd', async () => {
    await start();
    for (let n = 0; n < PER_ADDRESS; n += 1) await open();
    let crowd: Socket[] = [];
    let [heard, tookMs] = [0, Number.POSITIVE_INFINITY];
    // Over a longer time more of them are heard: it is no crowd then.
    while (tookMs >= LAST_WORDS_MS) {
      for (const socket of crowd) socket.destroy();
      const before = clients.refused();
      const startedAt = performance.now();
      crowd = await Promise.all(Array.from({ length: CROWD }, () => open()));
      heard = 0;
      for (const socket of crowd) {
        socket.once('data', () => {
          heard += 1;
        });
      }
      await expect.poll(clients.refused).toBe(before + CROWD);
      tookMs = performance.now() - startedAt;
      await expect
        .poll(() => new Promise((resolve) => server.getConnections((_, count) => resolve(count))))
        .toBe(PER_ADDRESS);
    }
    expect(heard).toBeGreaterThan(0);
    expect(heard).toBeLessThanOrEqual(64);
    // Those had their last words, and others may have theirs.
    expect(await told(await open())).toContain(' 429 ');
    for (const socket of crowd) socket.end();
    await Promise.all(crowd.map(closed));
  });
});

it('are counted with TLS, too, and end without a word', async () => {
  const api = await startHarness({
    config: { tls: 'development', requests: { maxConnectionsPerAddress: PER_ADDRESS } },
  });
  try {
    const ca = readFileSync(api.authorityFile ?? '');
    const { port } = new URL(api.url);
    const open = async (): Promise<Socket> => {
      const socket = connectTls({ host: '127.0.0.1', port: Number(port), ca, servername: 'localhost' });
      socket.on('error', () => {});
      await once(socket, 'secureConnect');
      return socket;
    };
    // As often as one likes, one after the other.
    for (let n = 0; n < 4 * PER_ADDRESS; n += 1) {
      const socket = await open();
      socket.end();
      await once(socket.resume(), 'close');
    }
    const held = await Promise.all(Array.from({ length: PER_ADDRESS }, open));
    await expect(open()).rejects.toThrow();
    for (const socket of held) socket.destroy();
    await expect.poll(async () => (await open()).destroy().destroyed).toBe(true);
  } finally {
    await api.close();
  }
}, 60_000);

it.each([
  ['192.0.2.1', '192.0.2.1'],
  ['::ffff:192.0.2.1', '192.0.2.1'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
  ['2001:db8:1:2::7', '2001:db8:1:2'],
  ['::1', '0:0:0:0'],
  ['fe80::1%eth0', 'fe80:0:0:0'],
])('%s is of the client %s', (address, network) => expect(networkOf(address)).toBe(network));
