/** Long answers, whose rest goes past the parser: every byte of them, and nothing else, whatever the guest does. Over real sockets. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { Agent, type IncomingMessage, type Server } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import { createServer as createSecureServer, request as secureRequest } from 'node:https';
import { connect, createServer, type Server as NetServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { serveHttp2 } from '../http2.ts';
import { type Ask, SANDBOX_ID as ID, listening, portOf, useEdge } from '../testing/edge-scene.ts';
import { openAuthority } from '../tls/authority.ts';

// Requests are not what these are about: theirs may be late.
const { scene, ask } = useEdge({ bodyIdleTimeoutMs: 30_000 });

const MIB = 1024 * 1024;
/** No two places of it look alike. */
const BODY = Buffer.from(Uint32Array.from({ length: 3 * MIB }, (_, index) => index).buffer);
const HEAD = `HTTP/1.1 200 OK\r\nContent-Length: ${BODY.length}\r\n\r\n`;
const PAGE = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n';

let releases: (() => void)[] = [];
afterEach(() => {
  for (const release of releases) release();
  releases = [];
});

/** A guest that answers the first request on each connection as it likes. */
async function guest(answer: (socket: Socket, nth: number) => void) {
  const open = new Set<Socket>();
  let count = 0;
  const server = createServer((socket) => {
    open.add(socket.on('error', () => {}).once('close', () => open.delete(socket)));
    socket.once('data', () => answer(socket, count++));
  });
  releases.push(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  return { to: portOf(await listening(server as NetServer as Server)), open, count: () => count };
}

const begin = async (options: Ask): Promise<IncomingMessage> => {
  const outgoing = ask('/', options);
  outgoing.end();
  const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
  return answer;
};

async function bodyOf(answer: AsyncIterable<unknown>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of answer) pieces.push(piece as Buffer);
  return Buffer.concat(pieces);
}

/** Not `toEqual`, which takes its time for each byte. */
const isBody = (bytes: Buffer): boolean => bytes.equals(BODY);

const ONE_GOOD_ANSWER = /^HTTP\/1\.1 200 OK\r\n(?:[^\r\n]+\r\n)+\r\ngood$/;

/** One that sees whatever comes, which Node's own would not give away. */
function rawClient() {
  const socket = connect(portOf(scene.front), '127.0.0.1').on('error', () => {});
  releases.push(() => socket.destroy());
  const pieces: Buffer[] = [];
  let count = 0;
  socket.on('data', (piece) => {
    pieces.push(piece);
    count += piece.length;
    socket.emit('more');
  });
  return {
    socket,
    ask: (to: number, ...lines: string[]) =>
      socket.write(['GET / HTTP/1.1', `Host: ${to}-${ID}.wrenn.test`, ...lines, '', ''].join('\r\n')),
    said: () => Buffer.concat(pieces),
    headBytes: () => (pieces[0]?.indexOf('\r\n\r\n') ?? 0) + 4,
    until: async (isEnough: (bytes: number) => boolean) => {
      while (!isEnough(count)) await once(socket, 'more');
    },
  };
}

/** On one connection, one after the other. */
const oneConnection = (): Agent => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  releases.push(() => agent.destroy());
  return agent;
};

describe('a long answer', () => {
  it('comes whole, and its client’s connection goes on', async () => {
    const agent = oneConnection();
    const fronts = new Set<Socket>();
    scene.front.on('connection', (socket) => fronts.add(socket));
    scene.serve = (incoming, outgoing) => {
      const body = incoming.url === '/' ? BODY : Buffer.from('short');
      outgoing.writeHead(200, { 'Content-Length': body.length }).end(body);
    };
    for (let round = 0; round < 3; round += 1) {
      expect(isBody(await bodyOf(await begin({ agent })))).toBe(true);
      const short = ask('/short', { agent });
      short.end();
      const [answer] = (await once(short, 'response')) as [IncomingMessage];
      expect(String(await bodyOf(answer))).toBe('short');
    }
    expect(fronts.size).toBe(1);
    await expect.poll(() => scene.logged.length).toBe(6);
    for (const each of scene.logged) expect(each).not.toHaveProperty('aborted');
    expect(scene.edge.counts().open).toBe(0);
  });

  it('goes past the parser, which costs the connection to the guest; a short one keeps it', async () => {
    let length = BODY.length;
    scene.serve = (_, outgoing) =>
      outgoing.writeHead(200, { 'Content-Length': length }).end(BODY.subarray(0, length));
    await bodyOf(await begin({}));
    await expect.poll(() => scene.guestSockets.size).toBe(0);
    length = MIB;
    await bodyOf(await begin({}));
    await bodyOf(await begin({}));
    expect(scene.guestSockets.size).toBe(1);
  });

  it('is the same however the guest cuts it into pieces, and what follows it is nobody’s', async () => {
    const pieces = fc.record({
      cuts: fc.array(fc.integer({ min: 1, max: HEAD.length + 300_000 }), { maxLength: 8 }),
      after: fc.constantFrom('', 'x', PAGE, `${PAGE}evil${PAGE}evil`, `${'x'.repeat(MIB)}${PAGE}evil`),
    });
    await fc.assert(
      fc.asyncProperty(pieces, async ({ cuts, after }) => {
        const whole = Buffer.concat([Buffer.from(HEAD), BODY, Buffer.from(after)]);
        const { to } = await guest(async (socket, nth) => {
          if (nth > 0) return socket.end(`${PAGE}good`);
          let from = 0;
          for (const cut of cuts.toSorted((a, b) => a - b)) {
            socket.write(whole.subarray(from, cut));
            from = cut;
            await new Promise((resolve) => setTimeout(resolve, 2));
          }
          socket.write(whole.subarray(from));
        });
        const client = rawClient();
        client.ask(to);
        await client.until((bytes) => bytes >= BODY.length + client.headBytes());
        client.ask(to, 'Connection: close');
        await once(client.socket, 'end');
        // To the byte: the one answer, and right after it the other's.
        const said = client.said();
        const bodyAt = client.headBytes();
        expect(isBody(said.subarray(bodyAt, bodyAt + BODY.length))).toBe(true);
        expect(said.subarray(bodyAt + BODY.length).toString('latin1')).toMatch(ONE_GOOD_ANSWER);
      }),
      { numRuns: 15 },
    );
  });

  it('goes on in larger pieces than it comes in', async () => {
    const { to } = await guest(async (socket) => {
      socket.write(HEAD);
      for (let from = 0; from < BODY.length; from += 16 * 1024) {
        socket.write(BODY.subarray(from, from + 16 * 1024));
        await new Promise((resolve) => setImmediate(resolve));
      }
    });
    let writes = 0;
    scene.front.on('connection', (socket: Socket) => {
      const write = socket._write.bind(socket);
      socket._write = (...args) => {
        writes += 1;
        write(...args);
      };
    });
    expect(isBody(await bodyOf(await begin({ to })))).toBe(true);
    expect(writes).toBeLessThan(BODY.length / (16 * 1024) / 2);
  });

  it('is whole for a reader that is slow, and the guest is held back meanwhile', async () => {
    const { to, open } = await guest((socket) => {
      socket.write(HEAD.replace(String(BODY.length), String(8 * BODY.length)));
      for (let n = 0; n < 8; n += 1) socket.write(BODY);
    });
    const answer = await begin({ to });
    answer.pause();
    const [socket] = open;
    let before = -1;
    await expect
      .poll(
        () => {
          const isStill = socket?.writableLength === before;
          before = socket?.writableLength ?? 0;
          return isStill;
        },
        { interval: 300, timeout: 10_000 },
      )
      .toBe(true);
    expect(before).toBeGreaterThan(4 * BODY.length);
    const got: Buffer[] = [];
    for await (const piece of answer) {
      got.push(piece);
      if (got.length % 64 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    }
    const bytes = Buffer.concat(got);
    expect(bytes.length).toBe(8 * BODY.length);
    for (let n = 0; n < 8; n += 1)
      expect(isBody(bytes.subarray(n * BODY.length, (n + 1) * BODY.length))).toBe(true);
  });

  it.each([
    ['ends', (socket: Socket) => socket.end()],
    ['is reset', (socket: Socket) => socket.resetAndDestroy()],
  ])('that %s before its length is broken for its client as well', async (_, stop) => {
    const { to } = await guest((socket) => {
      socket.write(HEAD);
      socket.write(BODY.subarray(0, -1), () => setTimeout(() => stop(socket), 50));
    });
    await expect(bodyOf(await begin({ to }))).rejects.toMatchObject({ code: 'ECONNRESET' });
    await expect.poll(() => scene.edge.counts().open).toBe(0);
  });

  it('that stalls ends with its client, or its sandbox', async () => {
    for (const end of ['client', 'sandbox'] as const) {
      const { to, open } = await guest((socket) => {
        socket.write(HEAD);
        socket.write(BODY.subarray(0, MIB));
      });
      const answer = await begin({ to });
      let bytes = 0;
      answer.on('data', (piece: Buffer) => {
        bytes += piece.length;
      });
      await expect.poll(() => bytes).toBe(MIB);
      const broken = once(answer, 'error');
      if (end === 'client') answer.destroy(new Error('enough'));
      else scene.tellGone(ID);
      await broken;
      await expect.poll(() => open.size).toBe(0);
      await expect.poll(() => scene.edge.counts().open).toBe(0);
    }
  });

  it('that is left in the middle holds nothing, whichever side is slow', async () => {
    const { to, open } = await guest((socket) => {
      socket.write(HEAD.replace(String(BODY.length), String(100 * BODY.length)));
      for (let n = 0; n < 8; n += 1) socket.write(BODY);
    });
    for (const isPaused of [true, false]) {
      const answer = await begin({ to });
      answer.on('error', () => {});
      if (isPaused) answer.pause();
      else await once(answer, 'data');
      await new Promise((resolve) => setTimeout(resolve, 100));
      answer.destroy();
      await expect.poll(() => open.size).toBe(0);
      await expect.poll(() => scene.edge.counts().open).toBe(0);
    }
  });

  it('that its client does not want to hear to its end, though it listens still, holds nothing', async () => {
    const { to, open } = await guest((socket) => {
      socket.write(HEAD.replace(String(BODY.length), String(100 * BODY.length)));
      const more = (): unknown => socket.writable && socket.write(BODY, more);
      more();
    });
    const client = rawClient();
    client.ask(to);
    await client.until((bytes) => bytes > 2 * BODY.length);
    client.socket.end();
    await expect.poll(() => open.size).toBe(0);
    await expect.poll(() => scene.edge.counts().open).toBe(0);
  });

  it('has no body where there can be none, whatever it says of its length', async () => {
    const agent = oneConnection();
    scene.serve = (incoming, outgoing) => {
      if (incoming.url === '/short') outgoing.end('short');
      else
        outgoing.writeHead(incoming.method === 'HEAD' ? 200 : 304, { 'Content-Length': BODY.length }).end();
    };
    for (const method of ['HEAD', 'GET']) {
      const answer = await begin({ method, agent });
      expect((await bodyOf(answer)).length).toBe(0);
      const short = ask('/short', { agent });
      short.end();
      const [next] = (await once(short, 'response')) as [IncomingMessage];
      expect(String(await bodyOf(next))).toBe('short');
    }
    expect(scene.guestSockets.size).toBe(1);
  });

  it('is whole though its request is not, and though its client is slow to take the end', async () => {
    scene.serve = (_, outgoing) => outgoing.writeHead(200, { 'Content-Length': BODY.length }).end(BODY);
    scene.front.on('connection', (socket: Socket) => {
      const write = socket._write.bind(socket);
      socket._write = (chunk, encoding, done) =>
        write(chunk, encoding, (error) => void setTimeout(done, 5, error));
    });
    const outgoing = ask('/', { method: 'POST', headers: { 'content-length': '1000000' } });
    outgoing.write('x');
    const dripping = setInterval(() => outgoing.write('x'), 1);
    releases.push(() => clearInterval(dripping));
    const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
    expect(isBody(await bodyOf(answer))).toBe(true);
  });

  it('that is whole holds up no client that takes its end only once it has sent all that it has', async () => {
    let sayEnd = () => {};
    const { to, open } = await guest((socket) => {
      socket.write(HEAD);
      socket.write(BODY.subarray(0, -1));
      sayEnd = () => socket.write(BODY.subarray(-1));
    });
    let takesEnd = () => {};
    scene.front.on('connection', (socket: Socket) => {
      const write = socket._write.bind(socket);
      socket._write = (chunk, encoding, done) => {
        if (chunk.length !== 1) write(chunk, encoding, done);
        else takesEnd = () => write(chunk, encoding, done);
      };
    });
    const client = rawClient();
    const upload = Buffer.alloc(32 * MIB);
    client.socket.write(
      `POST / HTTP/1.1\r\nHost: ${to}-${ID}.wrenn.test\r\nContent-Length: ${upload.length + 1}\r\n\r\nx`,
    );
    await client.until((bytes) => bytes === BODY.length - 1 + client.headBytes());
    sayEnd();
    await expect.poll(() => open.size).toBe(0);
    await new Promise((resolve) => client.socket.write(upload, resolve));
    takesEnd();
    await client.until((bytes) => bytes === BODY.length + client.headBytes());
    await expect.poll(() => scene.edge.counts().open).toBe(0);
  });

  it('comes in its turn for a client that has sent its requests ahead', async () => {
    scene.serve = (incoming, outgoing) => {
      const body = incoming.url === '/long' ? BODY : Buffer.from('short');
      const answer = () => outgoing.writeHead(200, { 'Content-Length': body.length }).end(body);
      // The second is ready before the first.
      setTimeout(answer, incoming.url === '/first' ? 200 : 0);
    };
    const host = `${portOf(scene.guest)}-${ID}.wrenn.test`;
    const socket = connect(portOf(scene.front), '127.0.0.1');
    const line = (path: string, more = '') => `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`;
    socket.write(line('/first') + line('/long') + line('/last', 'Connection: close\r\n'));
    const bytes = await bodyOf(socket);
    const bodyAt = bytes.indexOf('\r\n\r\n', bytes.indexOf(`Content-Length: ${BODY.length}`)) + 4;
    expect(bytes.subarray(0, bodyAt).toString('latin1').match(/short/g)).toHaveLength(1);
    expect(isBody(bytes.subarray(bodyAt, bodyAt + BODY.length))).toBe(true);
    expect(bytes.subarray(bodyAt + BODY.length).toString('latin1')).toMatch(/^HTTP\/1\.1 200 [\s\S]*short$/);
  });

  it('comes whole over TLS, by HTTP/1.1 and HTTP/2', async () => {
    scene.serve = (_, outgoing) => outgoing.writeHead(200, { 'Content-Length': BODY.length }).end(BODY);
    const directory = mkdtempSync(join(tmpdir(), 'wrenn-long-answers-'));
    releases.push(() => rmSync(directory, { recursive: true }));
    const authority = await openAuthority({ directory, domain: 'wrenn.test', listenHost: '127.0.0.1' });
    const server = createSecureServer(
      { ...(await authority.sign()), ALPNProtocols: ['h2', 'http/1.1'] },
      (incoming, outgoing) => {
        const address = scene.edge.addressOf(incoming);
        if (address !== undefined) void scene.edge.handle(address, incoming, outgoing);
      },
    );
    serveHttp2(server, { idleMs: 10_000 }, (incoming, outgoing) => {
      const address = scene.edge.addressOf(incoming);
      if (address !== undefined) void scene.edge.handle(address, incoming, outgoing);
    });
    const port = portOf(await listening(server as NetServer as Server));
    releases.push(() => server.close().closeAllConnections());
    const host = `${portOf(scene.guest)}-${ID}.wrenn.test`;

    const outgoing = secureRequest({ port, host: '127.0.0.1', headers: { host }, rejectUnauthorized: false });
    outgoing.end();
    const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
    expect(isBody(await bodyOf(answer))).toBe(true);

    const session = connectHttp2(`https://127.0.0.1:${port}`, { rejectUnauthorized: false });
    releases.push(() => session.destroy());
    expect(isBody(await bodyOf(session.request({ ':path': '/', ':authority': host })))).toBe(true);
  });
});
