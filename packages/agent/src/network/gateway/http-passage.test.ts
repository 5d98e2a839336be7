/** Requests over one connection, however they are cut up: each is judged, and the server sees those alone that may pass. */
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseHostPattern } from '@wrenn/host';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createHttpServer } from './http-passage.ts';
import { createPassage } from './passage.ts';

let [looking, mostLooking] = [0, 0];
const LIMITS = { maxConnections: 50, headMs: 5000, maxHeadBytes: 16_384, idleMs: 5000 };
let web: http.Server;
let gateway: http.Server;
const seen: string[] = [];

const portOf = (server: net.Server): number => {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
};

beforeAll(async () => {
  web = http.createServer((request, response) => {
    if (request.url === '/badly-said') return void request.socket.end('HTTP/1.1 200 \x01\r\n\r\n');
    let size = 0;
    request
      .on('data', (chunk: Buffer) => {
        size += chunk.length;
      })
      .on('end', () => {
        seen.push(`${request.method} ${request.headers.host}${request.url} ${size}`);
        response.setHeader('x-size', size);
        response.end(`<${request.url}>`);
      });
  });
  // It is to see them all; the newest Node answers 431 to more than a thousand.
  web.maxHeadersCount = 0;
  web.on('upgrade', (request, socket) => {
    seen.push(`${request.method} ${request.headers.host}${request.url} upgrade`);
    socket.on('error', () => {});
    socket.write(
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n<hello>',
    );
    socket.on('data', (chunk: Buffer) => socket.write(chunk));
  });
  await once(web.listen(0, '127.0.0.1'), 'listening');
  const passage = createPassage(LIMITS, async (name) => {
    if (name === 'slow.good.example') {
      looking += 1;
      mostLooking = Math.max(looking, mostLooking);
      await sleep(400);
      looking -= 1;
      return 'unknown';
    }
    const socket = net.connect({ host: '127.0.0.1', port: portOf(web), allowHalfOpen: true });
    await once(socket, 'connect');
    return socket;
  });
  const names = ['good.example', '*.good.example'].map(parseHostPattern);
  passage.setPolicy({ names, transmitBytesPerSecond: undefined });
  gateway = createHttpServer(passage);
  await once(gateway.listen(0, '127.0.0.1'), 'listening');
});

afterAll(() => {
  gateway.closeAllConnections();
  gateway.close();
  web.closeAllConnections();
  web.close();
});

/** Everything that came back until so many answers were there, or the connection ended. */
async function converse(pieces: readonly Buffer[], answers: number): Promise<string> {
  const socket = net.connect(portOf(gateway), '127.0.0.1');
  socket.setNoDelay(true);
  let got = '';
  const over = new Promise<void>((resolve) => {
    socket.on('data', (chunk) => {
      got += chunk.toString('latin1');
      if ((got.match(/HTTP\/1.1 \d/g) ?? []).length >= answers && /(>|\.\n|0\r\n\r\n)$/.test(got)) resolve();
    });
    socket.on('close', () => resolve());
    setTimeout(resolve, 3000).unref();
    socket.on('error', () => resolve());
  });
  for (const piece of pieces) {
    socket.write(piece);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await over;
  socket.destroy();
  return got;
}

const good = (path: string) => `GET ${path} HTTP/1.1\r\nHost: good.example\r\n\r\n`;
const post = (path: string) =>
  `POST ${path} HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`;
const bad = (path: string) => `POST ${path} HTTP/1.1\r\nHost: bad.example\r\nContent-Length: 3\r\n\r\nabc`;

it('judges each of several requests, in any pieces', async () => {
  const text = [good('/1'), bad('/2'), post('/3'), bad('/4'), good('/5')].join('');
  const cuts = fc.array(fc.integer({ min: 1, max: text.length - 1 }), { maxLength: 30 });
  await fc.assert(
    fc.asyncProperty(cuts, async (at) => {
      seen.length = 0;
      const ends = [...new Set([...at, text.length])].sort((a, b) => a - b);
      const pieces = ends.map((end, n) => Buffer.from(text.slice(ends[n - 1] ?? 0, end)));
      const got = await converse(pieces, 5);
      expect(got.match(/HTTP\/1.1 \d+/g)).toEqual(
        [200, 403, 200, 403, 200].map((status) => `HTTP/1.1 ${status}`),
      );
      expect([...seen].sort()).toEqual([
        'GET good.example/1 0',
        'GET good.example/5 0',
        'POST good.example/3 5',
      ]);
    }),
    { numRuns: 60 },
  );
});

it('leaves no header out, however many there are', async () => {
  const hidden = 'GET /hidden HTTP/1.1\r\nHost: evil.example\r\n\r\n';
  const filler = 'a:b\r\n'.repeat(1500);
  const head = `GET /body HTTP/1.1\r\nHost: good.example\r\n${filler}Content-Length: ${hidden.length}\r\n\r\n`;
  seen.length = 0;
  expect(await converse([Buffer.from(`${head}${hidden}`)], 1)).toContain('HTTP/1.1 200');
  expect(seen).toEqual([`GET good.example/body ${hidden.length}`]);
});

it('survives a server whose answer cannot be written', async () => {
  expect(await converse([Buffer.from(good('/badly-said'))], 1)).toContain('HTTP/1.1 502 Bad Gateway\r\n');
});

const upgrade = (path: string, connection = 'Connection: Upgrade\r\n') =>
  `GET ${path} HTTP/1.1\r\nHost: good.example\r\n${connection}Upgrade: websocket\r\n\r\n`;

it('carries websockets', async () => {
  expect(await converse([Buffer.from(upgrade('/ws'))], 1)).toMatch(/^HTTP\/1.1 101 [\s\S]*\r\n\r\n<hello>$/);
});

// What is thrown here would end the gateway, and every sandbox's connections with it.
it.each([
  ['sent ahead of an answer', good('/1') + upgrade('/ws'), []],
  ['of which Node knows nothing', upgrade('/ws', ''), ['HTTP/1.1 200']],
  [
    'of which Node knows nothing, sent ahead',
    good('/1') + upgrade('/ws', ''),
    ['HTTP/1.1 200', 'HTTP/1.1 200'],
  ],
])('lets no wish for another protocol through %s', async (_how, text, statuses) => {
  const got = await converse([Buffer.from(text)], statuses.length || 9);
  expect(got.match(/HTTP\/1.1 \d+/g) ?? []).toEqual(statuses);
  expect(got).not.toContain('<hello>');
  expect(await converse([Buffer.from(good('/well'))], 1)).toContain('</well>');
});

it('survives an expectation that nobody meets, and a wish for another protocol right behind it', async () => {
  const wonders = 'GET / HTTP/1.1\r\nHost: good.example\r\nExpect: wonders\r\n\r\n';
  expect(await converse([Buffer.from(wonders + good('/next'))], 2)).toMatch(/^HTTP\/1.1 417 [\s\S]*<\/next>/);
  expect(await converse([Buffer.from(wonders + upgrade('/ws'))], 9)).not.toContain('<hello>');
  expect(await converse([Buffer.from(good('/well'))], 1)).toContain('</well>');
});

it('looks for no more hosts at once than a sandbox may have connections, whoever still waits', async () => {
  for (let n = 0; n < 3 * LIMITS.maxConnections; n += 1) {
    const socket = net.connect(portOf(gateway), '127.0.0.1').on('error', () => {});
    socket.write('GET / HTTP/1.1\r\nHost: slow.good.example\r\n\r\n');
    await sleep(1);
    socket.resetAndDestroy();
  }
  expect(mostLooking).toBeGreaterThan(0);
  expect(mostLooking).toBeLessThanOrEqual(LIMITS.maxConnections);
  await sleep(500);
  expect(await converse([Buffer.from(good('/after'))], 1)).toContain('</after>');
});
