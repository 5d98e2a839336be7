/** Over real sockets, with a guest that is a server of this process. */
import { once } from 'node:events';
import {
  createServer,
  type IncomingMessage,
  type RequestOptions,
  request,
  type Server,
  type ServerResponse,
} from 'node:http';
import { type AddressInfo, connect, createServer as createNetServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { EdgeDirectory, EdgeTarget } from '../directory.ts';
import { createEdge, type Edge } from './edge.ts';

const ID = 'abcdefghij0123456789';

let guest: Server;
let guestSockets: Set<Socket>;
let front: Server;
let edge: Edge;
let target: EdgeTarget | undefined;
let goneListener: (sandboxId: string) => void;
let exposing: ((port: number) => Promise<boolean>) | undefined;
let serve: (incoming: IncomingMessage, outgoing: ServerResponse) => void;
let logged: unknown[];

const portOf = (server: Server): number => (server.address() as AddressInfo).port;
const listening = async (server: Server): Promise<Server> => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
};

beforeEach(async () => {
  exposing = undefined;
  logged = [];
  serve = (_, outgoing) => outgoing.end('hello');
  guest = await listening(createServer((incoming, outgoing) => serve(incoming, outgoing)));
  guestSockets = new Set();
  guest.on('connection', (socket) => {
    guestSockets.add(socket);
    socket.once('close', () => guestSockets.delete(socket));
  });
  target = { sandboxId: ID, address: '127.0.0.1', trafficToken: undefined, maskRequestHost: undefined };
  const directory: EdgeDirectory = {
    find: async (id) => (id === ID ? target : undefined),
    expose: async (_, port) => (await exposing?.(port)) ?? false,
    onGone: (listener) => {
      goneListener = listener;
      return () => {};
    },
  };
  const limits = { perSandbox: 8, total: 8, idleMs: 10_000 };
  const log = { info: (fields: unknown) => void logged.push(fields) };
  edge = createEdge({ domain: 'wrenn.test', limits, bodyIdleTimeoutMs: 300, log }, directory);
  front = createServer((incoming, outgoing) => {
    const address = edge.addressOf(incoming);
    if (address === undefined) outgoing.writeHead(418).end();
    else void edge.handle(address, incoming, outgoing);
  });
  front.on('upgrade', (incoming, socket, head) => {
    const address = edge.addressOf(incoming);
    if (address !== undefined) void edge.upgrade(address, incoming, socket, head);
  });
  await listening(front);
});

afterEach(() => {
  edge.close();
  for (const server of [front, guest]) {
    server.closeAllConnections();
    server.close();
  }
});

function ask(path: string, options: RequestOptions & { port?: number; to?: number } = {}) {
  const { to = portOf(guest), headers, ...rest } = options;
  const outgoing = request({
    host: '127.0.0.1',
    port: portOf(front),
    path,
    headers: { host: `${to}-${ID}.wrenn.test`, ...(headers as Record<string, string>) },
    agent: false,
    ...rest,
  });
  // What breaks after the answer has begun is told by the answer.
  outgoing.on('error', () => {});
  return outgoing;
}

async function answerOf(outgoing: ReturnType<typeof ask>, body?: string | Buffer) {
  outgoing.end(body);
  const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk);
  return { status: answer.statusCode, headers: answer.headers, body: Buffer.concat(chunks).toString() };
}

describe('a request', () => {
  it('goes to the guest as it came, and its answer comes back as it is', async () => {
    let seen: IncomingMessage | undefined;
    serve = async (incoming, outgoing) => {
      seen = incoming;
      const chunks: Buffer[] = [];
      for await (const chunk of incoming) chunks.push(chunk);
      outgoing.writeHead(201, {
        'X-Two': ['a', 'b'],
        'Set-Cookie': ['c=1', 'd=2'],
        Connection: 'X-Gone',
        'X-Gone': 'y',
      });
      outgoing.end(Buffer.concat(chunks).toString().toUpperCase());
    };
    const headers = {
      Connection: 'X-Hop',
      'X-Hop': 'secret',
      'X-Forwarded-For': '6.6.6.6',
      'E2b-Traffic-Access-Token': 'secret',
      'X-Kept': 'kept',
    };
    const answer = await answerOf(ask('/a/b?c=%20d', { method: 'PUT', headers }), 'body');
    expect(answer).toMatchObject({ status: 201, body: 'BODY' });
    expect(answer.headers).toMatchObject({ 'x-two': 'a, b', 'set-cookie': ['c=1', 'd=2'] });
    expect(answer.headers['x-gone']).toBeUndefined();
    expect(seen).toMatchObject({ method: 'PUT', url: '/a/b?c=%20d' });
    expect(seen?.headers).toMatchObject({
      host: `${portOf(guest)}-${ID}.wrenn.test`,
      'x-kept': 'kept',
      'x-forwarded-for': '127.0.0.1',
      'x-forwarded-proto': 'http',
    });
    for (const name of ['x-hop', 'e2b-traffic-access-token']) expect(seen?.headers[name]).toBeUndefined();
  });

  it('is told of in the log when it is over, without its path and headers', async () => {
    await answerOf(ask('/secret?signature=secret', { headers: { 'x-access-token': 'secret' } }));
    await answerOf(ask('/secret', { to: 1 }));
    const cut = ask('/');
    serve = () => cut.destroy();
    cut.end();
    await expect.poll(() => logged).toHaveLength(3);
    const common = { sandboxId: ID, port: portOf(guest), method: 'GET', durationMs: expect.any(Number) };
    expect(logged).toEqual([
      { ...common, status: 200 },
      { ...common, port: 1, status: 502 },
      { ...common, status: 0, aborted: true },
    ]);
  });

  it('has the host that its sandbox wants to see', async () => {
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is what callers write
    target = target && { ...target, maskRequestHost: 'localhost:${PORT}' };
    serve = (incoming, outgoing) => outgoing.end(incoming.headers.host);
    expect((await answerOf(ask('/'))).body).toBe(`localhost:${portOf(guest)}`);
  });

  it('is answered in words that SDKs know where there is no sandbox, or no port', async () => {
    const closed = await answerOf(ask('/', { to: 1 }));
    expect(closed.status).toBe(502);
    expect(JSON.parse(closed.body)).toEqual({
      sandboxId: ID,
      message: 'The sandbox is running but port is not open',
      port: 1,
      code: 502,
    });
    const page = await answerOf(ask('/', { to: 1, headers: { accept: 'text/html' } }));
    expect(page.headers['content-type']).toContain('text/html');
    target = undefined;
    const dead = await answerOf(ask('/', { method: 'POST' }), 'a body that nobody reads');
    expect(dead.status).toBe(502);
    expect(JSON.parse(dead.body)).toEqual({ sandboxId: ID, message: 'The sandbox was not found', code: 502 });
  });

  it('reaches a port that the guest opens only when it is asked, with its body', async () => {
    const closed = await listening(createServer());
    const port = portOf(closed);
    closed.close();
    let late: Server | undefined;
    exposing = async (wanted) => {
      late = createServer((incoming, outgoing) => incoming.pipe(outgoing));
      late.listen(wanted, '127.0.0.1');
      await once(late, 'listening');
      return true;
    };
    const answer = await answerOf(ask('/', { method: 'POST', to: port }), 'the body');
    expect(answer).toMatchObject({ status: 200, body: 'the body' });
    late?.closeAllConnections();
    late?.close();
    exposing = async () => true;
    expect(await answerOf(ask('/', { to: 1 }))).toMatchObject({ status: 502 });
  });

  it('that says two things about its length is refused, and the guest sees nothing of it', async () => {
    let reached = 0;
    serve = (_, outgoing) => {
      reached += 1;
      outgoing.end();
    };
    const lines = [
      ['Content-Length: 5', 'Transfer-Encoding: chunked', '', '0', '', 'GET /smuggled HTTP/1.1', '', ''],
      ['Content-Length: 5', 'Content-Length: 6', '', 'hello!'],
      ['Transfer-Encoding: xchunked', '', '0', '', ''],
      ['Content-Length: +5', '', 'hello'],
    ];
    for (const rest of lines) {
      const socket = connect(portOf(front), '127.0.0.1');
      socket.on('error', () => {});
      socket.end([`POST / HTTP/1.1`, `Host: ${portOf(guest)}-${ID}.wrenn.test`, ...rest].join('\r\n'));
      let text = '';
      for await (const chunk of socket) text += chunk;
      expect(text).toMatch(/^HTTP\/1\.1 400 /);
    }
    expect(reached).toBe(0);
  });

  it('has a body that is framed, whatever its method, and so is never read as another request', async () => {
    const seen: string[] = [];
    serve = async (incoming, outgoing) => {
      let body = '';
      for await (const chunk of incoming) body += chunk;
      seen.push(`${incoming.method} ${incoming.url} ${body}`);
      outgoing.end();
    };
    const hidden = 'POST /init HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n';
    for (const method of ['GET', 'DELETE', 'HEAD', 'OPTIONS', 'POST']) {
      const asked = ask('/health', { method, headers: { 'transfer-encoding': 'chunked' } });
      await answerOf(asked, hidden);
    }
    const upgrade = ask('/ws', {
      headers: { connection: 'Upgrade', upgrade: 'x', 'content-length': String(hidden.length) },
    });
    await answerOf(upgrade, hidden);
    expect(await answerOf(ask('/after'))).toMatchObject({ status: 200 });
    expect(seen.every((each) => !each.startsWith('POST /init'))).toBe(true);
    expect(seen.slice(0, 3)).toEqual(['GET', 'DELETE', 'HEAD'].map((each) => `${each} /health ${hidden}`));
    expect(seen.at(-1)).toBe('GET /after ');
  });

  it('keeps its framing, whatever its client says belongs to its own connection alone', async () => {
    const seen: string[] = [];
    serve = async (incoming, outgoing) => {
      for await (const _ of incoming);
      seen.push(`${incoming.method} ${incoming.url}`);
      outgoing.end('hello');
    };
    for (const method of ['GET', 'DELETE', 'OPTIONS', 'POST']) {
      const inner = `POST /init HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n`;
      const headers = { Connection: 'close, Content-Length, Host', 'Content-Length': String(inner.length) };
      expect(await answerOf(ask('/outer', { method, headers }), inner)).toMatchObject({ status: 200 });
      expect(seen.splice(0)).toEqual([`${method} /outer`]);
    }
  });

  it('with an answer that nobody may be given is refused, and nothing worse comes of it', async () => {
    for (const status of ['099', '000', '101']) {
      const raw = await listening(
        createNetServer((socket) =>
          socket
            .on('error', () => {})
            .once('data', () =>
              socket.end(`HTTP/1.1 ${status} X\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\n`),
            ),
        ) as Server,
      );
      expect(await answerOf(ask('/', { to: portOf(raw) }))).toMatchObject({ status: 502 });
      raw.close();
    }
  });

  it('that stops in the middle of its body is given up', async () => {
    serve = (incoming) => incoming.resume();
    const slow = ask('/', { method: 'POST', headers: { 'content-length': '100' } });
    slow.write('a');
    const [answer] = (await once(slow, 'response')) as [IncomingMessage];
    expect(answer.statusCode).toBe(408);
    slow.destroy();
  });

  it('is one of so many at once', async () => {
    serve = () => {};
    const open = Array.from({ length: 8 }, () => ask('/'));
    for (const each of open) each.on('error', () => {}).end();
    await expect.poll(() => edge.counts().open).toBe(8);
    const refused = await answerOf(ask('/'));
    expect(refused).toMatchObject({ status: 429, headers: { 'retry-after': '1' } });
    for (const each of open) each.destroy();
    await expect.poll(() => edge.counts().open).toBe(0);
    await expect.poll(() => guestSockets.size).toBe(0);
  });

  it('finds a fresh connection when the guest has just closed the idle one', async () => {
    expect((await answerOf(ask('/'))).body).toBe('hello');
    await expect.poll(() => guestSockets.size).toBe(1);
    for (const socket of guestSockets) socket.resetAndDestroy();
    expect((await answerOf(ask('/'))).body).toBe('hello');
  });
});

describe('a stream', () => {
  it('comes piece by piece, as server-sent events do', async () => {
    let push: ((text: string) => void) | undefined;
    serve = (_, outgoing) => {
      outgoing.writeHead(200, { 'Content-Type': 'text/event-stream' });
      push = (text) => void outgoing.write(text);
      outgoing.flushHeaders();
    };
    const outgoing = ask('/');
    outgoing.end();
    const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
    for (const text of ['data: 1\n\n', 'data: 2\n\n']) {
      push?.(text);
      const [chunk] = await once(answer, 'data');
      expect(String(chunk)).toBe(text);
    }
    answer.on('error', () => {});
    outgoing.destroy();
    await expect.poll(() => guestSockets.size).toBe(0);
  });

  it('is held back by a reader that is slow, in both directions', async () => {
    const piece = Buffer.alloc(64 * 1024);
    let produced = 0;
    serve = (_, outgoing) => {
      const more = (): void => {
        while (produced < 512 * 1024 * 1024) {
          produced += piece.length;
          if (!outgoing.write(piece)) return void outgoing.once('drain', more);
        }
      };
      more();
    };
    const outgoing = ask('/');
    outgoing.end();
    const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
    answer.pause();
    await expect
      .poll(async () => produced === (await settled(() => produced)), { timeout: 10_000 })
      .toBe(true);
    expect(produced).toBeLessThan(64 * 1024 * 1024);
    answer.on('error', () => {});
    outgoing.destroy();
  });

  it('that the guest cuts off is no answer that looks whole', async () => {
    serve = (incoming, outgoing) => {
      outgoing.writeHead(200);
      outgoing.write('half');
      setTimeout(() => incoming.socket.resetAndDestroy(), 50);
    };
    await expect(answerOf(ask('/'))).rejects.toMatchObject({ code: 'ECONNRESET' });
  });

  it('is reset when its sandbox is gone, and the idle connections with it', async () => {
    expect((await answerOf(ask('/'))).status).toBe(200);
    serve = (_, outgoing) => void outgoing.write('begun');
    const ended = expect(answerOf(ask('/'))).rejects.toMatchObject({ code: 'ECONNRESET' });
    await expect.poll(() => edge.counts().open).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 50));
    goneListener(ID);
    await ended;
    await expect.poll(() => guestSockets.size).toBe(0);
    await expect.poll(() => edge.counts().open).toBe(0);
  });
});

describe('a change of the protocol', () => {
  it('joins the two sides until one of them goes', async () => {
    guest.on('upgrade', (_incoming, socket: Socket, head: Buffer) => {
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nwelcome ',
      );
      if (head.length > 0) socket.write(head);
      socket.on('error', () => {});
      socket.pipe(socket);
    });
    const outgoing = ask('/', { headers: { Connection: 'Upgrade', Upgrade: 'echo' } });
    outgoing.end();
    const [answer, socket, head] = (await once(outgoing, 'upgrade')) as [IncomingMessage, Socket, Buffer];
    expect(answer.headers.upgrade).toBe('echo');
    let text = head.toString();
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.write('ping');
    await expect.poll(() => text).toBe('welcome ping');
    socket.on('error', () => {});
    const closed = new Promise((resolve) => socket.once('close', resolve));
    goneListener(ID);
    await closed;
    await expect.poll(() => guestSockets.size).toBe(0);
    await expect.poll(() => logged).toMatchObject([{ sandboxId: ID, method: 'UPGRADE', status: 101 }]);
  });

  it('that the guest does not want is answered as the guest answers', async () => {
    serve = (_, outgoing) => outgoing.writeHead(426).end('no');
    const outgoing = ask('/', { headers: { Connection: 'Upgrade', Upgrade: 'echo' } });
    expect(await answerOf(outgoing)).toMatchObject({ status: 426, body: 'no' });
    target = undefined;
    const dead = ask('/', { headers: { Connection: 'Upgrade', Upgrade: 'echo' } });
    expect(await answerOf(dead)).toMatchObject({ status: 502 });
  });

  it('that is refused holds no connection of a client that never ends its side', async () => {
    serve = (_, outgoing) => outgoing.writeHead(426, { 'X-Latin': 'f\u00fcr' }).end('no');
    const sockets = new Set<Socket>();
    front.on('connection', (socket) => sockets.add(socket.once('close', () => sockets.delete(socket))));
    const heads: string[] = [];
    for (const id of [ID, 'z'.repeat(20)]) {
      const client = connect({ port: portOf(front), host: '127.0.0.1', allowHalfOpen: true });
      client.on('error', () => {});
      client.on('data', (chunk) => heads.push(chunk.toString('latin1')));
      client.write(
        `GET / HTTP/1.1\r\nHost: ${portOf(guest)}-${id}.wrenn.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n`,
      );
    }
    await expect.poll(() => heads.join('')).toMatch(/ 502 /);
    await expect.poll(() => heads.join('')).toContain('X-Latin: f\u00fcr\r\n');
    expect(edge.counts().open).toBeLessThanOrEqual(1);
    await expect.poll(() => sockets.size, { timeout: 5000 }).toBe(0);
    expect(edge.counts().open).toBe(0);
  });
});

async function settled(value: () => number): Promise<number> {
  const before = value();
  await new Promise((resolve) => setTimeout(resolve, 200));
  return value() === before ? before : Number.NaN;
}
