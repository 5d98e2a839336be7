/** HTTP/2 and TLS over real sockets, with a guest that is a server of this process. */
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  constants,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
} from 'node:http2';
import { request as httpsRequest } from 'node:https';
import { type AddressInfo, createServer as createNetServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { apiConfigSchema } from './config/schema.ts';
import { createEdge, type Edge } from './edge/edge.ts';
import { createFront, type Front } from './front.ts';
import { flood, type Sent, untilHeldBack } from './testing/flood.ts';
import { type Certificates, openCertificates } from './tls/certificates.ts';

const ID = 'abcdefghij0123456789';
const DOMAIN = 'wrenn.localhost';
const dir = mkdtempSync(join(tmpdir(), 'wrenn-front-'));
const config = apiConfigSchema.parse({
  tls: 'development',
  domain: DOMAIN,
  store: { dataDir: join(dir, 'store') },
  requests: { requestTimeoutMs: 300, keepAliveTimeoutMs: 5000, headersTimeoutMs: 5000 },
});
const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

let certificates: Certificates;
let ca: Buffer;
let guest: Server;
let guestSockets: Set<Socket>;
let edge: Edge;
let front: Front;
let tellChange: Parameters<Certificates['onChange']>[0];
let server: Server;
let goneListener: (sandboxId: string) => void;
let serve: (incoming: IncomingMessage, outgoing: ServerResponse) => void;
let session: ClientHttp2Session;

const portOf = (each: Server): number => (each.address() as AddressInfo).port;

beforeAll(async () => {
  const opened = await openCertificates(config, log);
  if (opened?.authority === undefined) throw new Error('no certificate');
  certificates = opened;
  ca = readFileSync(opened.authority.certificateFile);
});
afterAll(() => {
  certificates.close();
  rmSync(dir, { recursive: true });
});

beforeEach(async () => {
  serve = (_, outgoing) => outgoing.end('hello');
  guest = createServer((incoming, outgoing) => serve(incoming, outgoing)).listen(0, '127.0.0.1');
  guestSockets = new Set();
  guest.on('connection', (socket) => {
    guestSockets.add(socket);
    socket.once('close', () => guestSockets.delete(socket));
  });
  await once(guest, 'listening');
  edge = createEdge(
    { domain: DOMAIN, bodyIdleTimeoutMs: 4000, limits: { perSandbox: 300, total: 300, idleMs: 10_000 } },
    {
      find: async (id) =>
        id === ID
          ? { sandboxId: ID, address: '127.0.0.1', trafficToken: undefined, maskRequestHost: undefined }
          : undefined,
      expose: async () => false,
      onGone: (listener) => {
        goneListener = listener;
        return () => {};
      },
    },
  );
  const onChange: Certificates['onChange'] = (listener) => {
    tellChange = listener;
  };
  const { current, authority, reload, close } = certificates;
  const shown = { current, authority, reload, close, onChange };
  front = createFront({ edge, config: config.requests, certificates: shown });
  server = front.serve((incoming, outgoing) => {
    incoming.resume();
    incoming.once('end', () => outgoing.end(`api ${incoming.httpVersion}`));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  session = opened();
});

afterEach(() => {
  session.destroy();
  edge.close();
  front.cut();
  guest.closeAllConnections();
  for (const each of [server, guest]) each.close();
});

function opened(): ClientHttp2Session {
  const made = connect(`https://127.0.0.1:${portOf(server)}`, { ca, servername: `api.${DOMAIN}` });
  made.on('error', () => {});
  return made;
}

function ask(path: string, headers: OutgoingHttpHeaders = {}, to = portOf(guest)) {
  const authority = `${to}-${ID}.${DOMAIN}:${portOf(server)}`;
  const hasBody = !['GET', undefined].includes(headers[':method'] as string | undefined);
  const stream = session.request(
    { ':path': path, ':authority': authority, ...headers },
    { endStream: !hasBody },
  );
  return stream;
}

async function answerOf(stream: ClientHttp2Stream, body?: string) {
  if (body !== undefined) stream.end(body);
  const [headers] = (await once(stream, 'response')) as [IncomingHttpHeaders & { ':status'?: number }];
  let text = '';
  for await (const chunk of stream) text += chunk;
  return { status: headers[':status'], headers, text };
}

/** How a stream ended. */
async function endOf(stream: ClientHttp2Stream): Promise<{ text: string; rstCode: number; error: string }> {
  let [text, error] = ['', ''];
  stream.on('data', (chunk) => {
    text += chunk;
  });
  stream.on('error', (cause: NodeJS.ErrnoException) => {
    error = cause.code ?? '';
  });
  if (!stream.closed) await new Promise((resolve) => stream.once('close', resolve));
  return { text, rstCode: stream.rstCode ?? 0, error };
}

describe('a client of HTTP/2', () => {
  it('reaches a guest, which sees an ordinary request', async () => {
    let seen: IncomingMessage | undefined;
    serve = async (incoming, outgoing) => {
      seen = incoming;
      let body = '';
      for await (const chunk of incoming) body += chunk;
      outgoing.writeHead(201, [
        ['Set-Cookie', 'a=1'],
        ['Set-Cookie', 'b=2'],
        ['Content-Type', 'text/plain'],
        ['Content-Type', 'text/html'],
        ['Connection', 'X-Gone'],
        ['X-Gone', 'y'],
      ] as never);
      outgoing.end(body.toUpperCase());
    };
    const headers = { ':method': 'PUT', cookie: ['c=1', 'd=2'], te: 'trailers', 'x-kept': 'kept' };
    const answer = await answerOf(ask('/a?b=%20c', headers), 'body');
    expect(answer).toMatchObject({ status: 201, text: 'BODY' });
    expect(answer.headers).toMatchObject({ 'set-cookie': ['a=1', 'b=2'], 'content-type': 'text/plain' });
    expect(answer.headers['x-gone']).toBeUndefined();
    expect(seen).toMatchObject({ method: 'PUT', url: '/a?b=%20c', httpVersion: '1.1' });
    expect(seen?.headers).toMatchObject({
      host: `${portOf(guest)}-${ID}.${DOMAIN}:${portOf(server)}`,
      cookie: 'c=1; d=2',
      'x-kept': 'kept',
      'x-forwarded-proto': 'https',
      'x-forwarded-for': '127.0.0.1',
      'transfer-encoding': 'chunked',
    });
    expect(seen?.headers.te).toBeUndefined();
    expect(Object.keys(seen?.headers ?? {}).some((name) => name.startsWith(':'))).toBe(false);
  });

  it('reaches the API on the same connection, and is told of closed ports and dead sandboxes', async () => {
    expect(await answerOf(session.request({ ':path': '/', ':authority': `api.${DOMAIN}` }))).toMatchObject({
      status: 200,
      text: 'api 2.0',
    });
    const closed = await answerOf(ask('/', {}, 1));
    expect(closed.status).toBe(502);
    expect(JSON.parse(closed.text)).toMatchObject({ message: 'The sandbox is running but port is not open' });
    const dead = await answerOf(
      session.request({ ':path': '/', ':authority': `80-nobody.${DOMAIN}`, ':method': 'POST' }),
      'a body that nobody reads',
    );
    expect(dead.status).toBe(502);
    expect((await answerOf(ask('/'))).text).toBe('hello');
  });

  it('streams in both directions at once', async () => {
    serve = (incoming, outgoing) => {
      outgoing.writeHead(200);
      incoming.pipe(outgoing);
    };
    const stream = ask('/', { ':method': 'POST' });
    stream.write('one');
    await once(stream, 'response');
    const next = async (): Promise<string> => String((await once(stream, 'data'))[0]);
    expect(await next()).toBe('one');
    stream.write('two');
    expect(await next()).toBe('two');
    stream.end();
    expect(await endOf(stream)).toMatchObject({ rstCode: 0, error: '' });
  });

  it.each([
    ['says so', (stream: ClientHttp2Stream) => stream.close(constants.NGHTTP2_CANCEL)],
    ['gives no reason, as undici does', (stream: ClientHttp2Stream) => stream.close()],
    ['breaks the stream', (stream: ClientHttp2Stream) => stream.destroy()],
    ['breaks the connection', (stream: ClientHttp2Stream) => stream.session?.destroy()],
  ])('that gives a request up and %s ends it in the guest, with no whole body', async (_, giveUp) => {
    const ends: string[] = [];
    serve = (incoming, outgoing) => {
      incoming.once('aborted', () => ends.push('aborted'));
      incoming.once('end', () => ends.push('end'));
      incoming.on('error', () => {});
      incoming.resume();
      outgoing.writeHead(200).write('begun');
    };
    const stream = ask('/', { ':method': 'POST' });
    stream.on('error', () => {});
    stream.write('half');
    await once(stream, 'response');
    giveUp(stream);
    await expect.poll(() => ends).toEqual(['aborted']);
    await expect.poll(() => guestSockets.size).toBe(0);
    expect(edge.counts().open).toBe(0);
  });

  it('sees a reset where the guest breaks off or is gone, and the other streams go on', async () => {
    serve = (incoming, outgoing) => {
      outgoing.writeHead(200).write('half');
      if (incoming.url === '/cut') setTimeout(() => incoming.socket.resetAndDestroy(), 50);
    };
    const gone = ask('/stays');
    await once(gone, 'response');
    expect(await endOf(ask('/cut'))).toEqual({
      text: 'half',
      rstCode: constants.NGHTTP2_INTERNAL_ERROR,
      error: 'ERR_HTTP2_STREAM_ERROR',
    });
    expect(gone.closed).toBe(false);
    const ended = endOf(gone);
    goneListener(ID);
    expect(await ended).toMatchObject({ rstCode: constants.NGHTTP2_INTERNAL_ERROR });
    expect((await answerOf(session.request({ ':path': '/' }))).status).toBe(200);
    await expect.poll(() => guestSockets.size).toBe(0);
  });

  it('that reads slowly holds the guest back, and a guest that reads slowly the client', async () => {
    let down: Sent = () => 0;
    serve = (incoming, outgoing) => {
      if (incoming.method === 'POST') incoming.pause();
      else down = flood(outgoing);
    };
    const reader = ask('/').on('error', () => {});
    await once(reader, 'response');
    reader.pause();
    const writer = ask('/', { ':method': 'POST' }).on('error', () => {});
    const up = flood(writer);
    await untilHeldBack([() => down(), up], 32 * 1024 * 1024);
    // Neither holds up the others of its connection.
    expect((await answerOf(session.request({ ':path': '/' }))).status).toBe(200);
    for (const each of [reader, writer]) each.close(constants.NGHTTP2_CANCEL);
  });

  it('gets a refusal for what no guest may say or be asked', async () => {
    const raw = createNetServer((socket) =>
      socket
        .on('error', () => {})
        .once('data', () => socket.end('HTTP/1.1 700 X\r\nContent-Length: 0\r\n\r\n')),
    ).listen(0, '127.0.0.1');
    await once(raw, 'listening');
    expect(await answerOf(ask('/', {}, (raw.address() as AddressInfo).port))).toMatchObject({ status: 502 });
    raw.close();
    const tunnel = session.request({ ':method': 'CONNECT', ':authority': `80-${ID}.${DOMAIN}` });
    expect((await answerOf(tunnel)).status).toBe(405);
  });

  it('whose body does not come is told so, and may end it', async () => {
    serve = (incoming) => void incoming.resume();
    const stream = ask('/', { ':method': 'POST' });
    stream.write('a');
    expect(await answerOf(stream)).toMatchObject({ status: 408, text: expect.stringContaining('too long') });
    const end = endOf(stream);
    setTimeout(() => stream.end(), 500);
    expect(await end).toMatchObject({ rstCode: constants.NGHTTP2_NO_ERROR, error: '' });
  });

  it('has bounds: streams at once, size of the head, resets in a row, bodies that do not come', async () => {
    // They may be here already.
    await expect.poll(() => session.remoteSettings.maxConcurrentStreams).toBe(256);
    expect(session.remoteSettings).toMatchObject({ maxConcurrentStreams: 256, enableConnectProtocol: false });
    const large = session.request({ ':path': '/', 'x-large': 'a'.repeat(20_000) });
    const refused = await endOf(large);
    expect(refused.rstCode === 0 && refused.error === '').toBe(false);

    const slow = opened();
    const late = slow.request({ ':path': '/', ':method': 'POST' });
    late.write('a');
    expect(await endOf(late)).toMatchObject({ rstCode: constants.NGHTTP2_CANCEL });

    serve = () => {};
    const flood = opened();
    const isOver = new Promise((resolve) => flood.once('close', resolve));
    for (let round = 0; round < 40 && !flood.destroyed; round += 1) {
      for (let index = 0; index < 100 && !flood.destroyed; index += 1) {
        const stream = flood.request({ ':path': '/', ':authority': `${portOf(guest)}-${ID}.${DOMAIN}` });
        stream.on('error', () => {}).close(constants.NGHTTP2_CANCEL);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await isOver;
    await expect.poll(() => edge.counts().open).toBe(0);
    slow.destroy();
  }, 60_000);

  it('that is answered before its end may not go on sending for ever', async () => {
    serve = (_, outgoing) => void outgoing.end('enough');
    const gone = `${portOf(guest)}-${'z'.repeat(20)}.${DOMAIN}`;
    for (const [headers, status] of [
      [{}, 200],
      [{ ':authority': gone }, 502],
    ] as const) {
      const stream = ask('/', { ':method': 'POST', ...headers });
      const ended = endOf(stream);
      const [answer] = (await once(stream, 'response')) as [IncomingHttpHeaders];
      expect(answer[':status']).toBe(status);
      const dripping = setInterval(() => stream.write('x'), 100);
      await ended.finally(() => clearInterval(dripping));
    }
    await expect.poll(() => edge.counts().open).toBe(0);
  });

  it('gives its place up with a HEAD that the guest never answers', async () => {
    serve = () => {};
    const stream = ask('/', { ':method': 'HEAD' });
    stream.on('error', () => {});
    await expect.poll(() => edge.counts().open).toBe(1);
    stream.close(constants.NGHTTP2_CANCEL);
    await expect.poll(() => edge.counts().open).toBe(0);
  });

  it('that says nothing at all is let go, whether or not it takes the end', async () => {
    const silent = connectTls({
      port: portOf(server),
      host: '127.0.0.1',
      ca,
      servername: `api.${DOMAIN}`,
      ALPNProtocols: ['h2'],
    });
    // It reads nothing, and so never learns that it is to end its own side.
    silent.on('error', () => {}).pause();
    await once(silent, 'secureConnect');
    const count = () => new Promise((resolve) => server.getConnections((_, open) => resolve(open)));
    await expect.poll(count, { timeout: 15_000, interval: 100 }).toBe(0);
    silent.destroy();
  });

  it('that is silent is let go, unless an answer is under way', async () => {
    let finish = () => {};
    serve = (_, outgoing) => {
      outgoing.writeHead(200).write('begun');
      finish = () => outgoing.end();
    };
    const quiet = opened();
    const closed = new Promise((resolve) => quiet.once('close', resolve));
    const stream = ask('/');
    await once(stream, 'response');
    await closed;
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(session.closed || stream.closed).toBe(false);
    // And is once it is over, as any other.
    finish();
    stream.resume();
    await new Promise((resolve) => session.once('close', resolve));
  });
});

describe('TLS', () => {
  it('gives HTTP/1.1 to those who want it, websockets included, and nothing to those without', async () => {
    guest.on('upgrade', (_incoming, socket: Socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n');
      socket.on('error', () => {}).pipe(socket);
    });
    const to = {
      host: '127.0.0.1',
      port: portOf(server),
      ca,
      servername: `api.${DOMAIN}`,
      agent: false,
    } as const;
    const host = `${portOf(guest)}-${ID}.${DOMAIN}`;
    const plain = httpsRequest({ ...to, headers: { host } }).end();
    const [answer] = (await once(plain, 'response')) as [IncomingMessage];
    expect(answer).toMatchObject({ statusCode: 200, httpVersion: '1.1' });
    answer.resume();
    const upgrade = httpsRequest({ ...to, headers: { host, connection: 'Upgrade', upgrade: 'echo' } }).end();
    const [, socket] = (await once(upgrade, 'upgrade')) as [IncomingMessage, Socket];
    socket.write('ping');
    expect(String((await once(socket, 'data'))[0])).toBe('ping');
    const closed = new Promise((resolve) => socket.on('error', () => {}).once('close', resolve));
    goneListener(ID);
    await closed;
    await expect(fetch(`http://127.0.0.1:${portOf(server)}/`)).rejects.toThrow();
  });

  it('takes another certificate without breaking what is open', async () => {
    const fingerprint = async (): Promise<string> => {
      const socket = connectTls({ host: '127.0.0.1', port: portOf(server), ca, servername: `api.${DOMAIN}` });
      await once(socket, 'secureConnect');
      const { fingerprint256 } = socket.getPeerCertificate();
      socket.destroy();
      return fingerprint256;
    };
    let push: ((text: string) => void) | undefined;
    serve = (_, outgoing) => {
      outgoing.writeHead(200).flushHeaders();
      push = (text) => void outgoing.write(text);
    };
    const stream = ask('/');
    await once(stream, 'response');
    const before = await fingerprint();
    const again = await openCertificates(config, log);
    if (again === undefined) throw new Error('no certificate');
    tellChange(again.current);
    again.close();
    expect(await fingerprint()).not.toBe(before);
    push?.('still here');
    expect(String((await once(stream, 'data'))[0])).toBe('still here');
  });

  it('ends within its bound, whatever is open', async () => {
    serve = (_, outgoing) => void outgoing.writeHead(200).write('for ever');
    const stream = ask('/');
    stream.on('error', () => {});
    await once(stream, 'response');
    const half = connectTls({ host: '127.0.0.1', port: portOf(server), ca, servername: 'localhost' });
    half.on('error', () => {});
    const closed = new Promise((resolve) => server.close(resolve));
    front.drain();
    front.cut();
    await closed;
  });
});
