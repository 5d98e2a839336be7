/** HTTP/2 over real sockets, to a guest and to the API. */
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { type ClientHttp2Stream, constants, type IncomingHttpHeaders } from 'node:http2';
import { type AddressInfo, createServer as createNetServer } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { describe, expect, it } from 'vitest';
import { portOf, SANDBOX_ID } from './testing/edge-scene.ts';
import { flood, type Sent, untilHeldBack } from './testing/flood.ts';
import { answerOf, DOMAIN, endOf, useFront } from './testing/front-scene.ts';

const { scene, ask, opened } = useFront();

describe('a client of HTTP/2', () => {
  it('reaches a guest, which sees an ordinary request', async () => {
    let seen: IncomingMessage | undefined;
    scene.serve = async (incoming, outgoing) => {
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
      host: `${portOf(scene.guest)}-${SANDBOX_ID}.${DOMAIN}:${portOf(scene.server)}`,
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
    expect(
      await answerOf(scene.session.request({ ':path': '/', ':authority': `api.${DOMAIN}` })),
    ).toMatchObject({
      status: 200,
      text: 'api 2.0',
    });
    const closed = await answerOf(ask('/', {}, 1));
    expect(closed.status).toBe(502);
    expect(JSON.parse(closed.text)).toMatchObject({ message: 'The sandbox is running but port is not open' });
    const dead = await answerOf(
      scene.session.request({ ':path': '/', ':authority': `80-nobody.${DOMAIN}`, ':method': 'POST' }),
      'a body that nobody reads',
    );
    expect(dead.status).toBe(502);
    expect((await answerOf(ask('/'))).text).toBe('hello');
  });

  it('streams in both directions at once', async () => {
    scene.serve = (incoming, outgoing) => {
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
    scene.serve = (incoming, outgoing) => {
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
    await expect.poll(() => scene.guestSockets.size).toBe(0);
    expect(scene.edge.counts().open).toBe(0);
  });

  it('sees a reset where the guest breaks off or is gone, and the other streams go on', async () => {
    scene.serve = (incoming, outgoing) => {
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
    scene.tellGone(SANDBOX_ID);
    expect(await ended).toMatchObject({ rstCode: constants.NGHTTP2_INTERNAL_ERROR });
    expect((await answerOf(scene.session.request({ ':path': '/' }))).status).toBe(200);
    await expect.poll(() => scene.guestSockets.size).toBe(0);
  });

  it('that reads slowly holds the guest back, and a guest that reads slowly the client', async () => {
    let down: Sent = () => 0;
    scene.serve = (incoming, outgoing) => {
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
    expect((await answerOf(scene.session.request({ ':path': '/' }))).status).toBe(200);
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
    const tunnel = scene.session.request({
      ':method': 'CONNECT',
      ':authority': `80-${SANDBOX_ID}.${DOMAIN}`,
    });
    expect((await answerOf(tunnel)).status).toBe(405);
  });

  it('whose body does not come is told so, and may end it', async () => {
    scene.serve = (incoming) => void incoming.resume();
    const stream = ask('/', { ':method': 'POST' });
    stream.write('a');
    expect(await answerOf(stream)).toMatchObject({ status: 408, text: expect.stringContaining('too long') });
    const end = endOf(stream);
    setTimeout(() => stream.end(), 500);
    expect(await end).toMatchObject({ rstCode: constants.NGHTTP2_NO_ERROR, error: '' });
  });

  it('has bounds: streams at once, size of the head, resets in a row, bodies that do not come', async () => {
    // They may be here already.
    await expect.poll(() => scene.session.remoteSettings.maxConcurrentStreams).toBe(256);
    expect(scene.session.remoteSettings).toMatchObject({
      maxConcurrentStreams: 256,
      enableConnectProtocol: false,
    });
    const large = scene.session.request({ ':path': '/', 'x-large': 'a'.repeat(20_000) });
    const refused = await endOf(large);
    expect(refused.rstCode === 0 && refused.error === '').toBe(false);

    const slow = opened();
    const late = slow.request({ ':path': '/', ':method': 'POST' });
    late.write('a');
    expect(await endOf(late)).toMatchObject({ rstCode: constants.NGHTTP2_CANCEL });

    scene.serve = () => {};
    const flood = opened();
    const isOver = new Promise((resolve) => flood.once('close', resolve));
    for (let round = 0; round < 40 && !flood.destroyed; round += 1) {
      for (let index = 0; index < 100 && !flood.destroyed; index += 1) {
        const stream = flood.request({
          ':path': '/',
          ':authority': `${portOf(scene.guest)}-${SANDBOX_ID}.${DOMAIN}`,
        });
        stream.on('error', () => {}).close(constants.NGHTTP2_CANCEL);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await isOver;
    await expect.poll(() => scene.edge.counts().open).toBe(0);
    slow.destroy();
  }, 60_000);

  it('that is answered before its end may not go on sending for ever', async () => {
    scene.serve = (_, outgoing) => void outgoing.end('enough');
    const gone = `${portOf(scene.guest)}-${'z'.repeat(20)}.${DOMAIN}`;
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
    await expect.poll(() => scene.edge.counts().open).toBe(0);
  });

  it('gives its place up with a HEAD that the guest never answers', async () => {
    scene.serve = () => {};
    const stream = ask('/', { ':method': 'HEAD' });
    stream.on('error', () => {});
    await expect.poll(() => scene.edge.counts().open).toBe(1);
    stream.close(constants.NGHTTP2_CANCEL);
    await expect.poll(() => scene.edge.counts().open).toBe(0);
  });

  it('that says nothing at all is let go, whether or not it takes the end', async () => {
    const silent = connectTls({
      port: portOf(scene.server),
      host: '127.0.0.1',
      ca: scene.ca,
      servername: `api.${DOMAIN}`,
      ALPNProtocols: ['h2'],
    });
    // It reads nothing, and so never learns that it is to end its own side.
    silent.on('error', () => {}).pause();
    await once(silent, 'secureConnect');
    const count = () => new Promise((resolve) => scene.server.getConnections((_, open) => resolve(open)));
    await expect.poll(count, { timeout: 15_000, interval: 100 }).toBe(0);
    silent.destroy();
  });

  it('that is silent is let go, unless an answer is under way', async () => {
    let finish = () => {};
    scene.serve = (_, outgoing) => {
      outgoing.writeHead(200).write('begun');
      finish = () => outgoing.end();
    };
    const quiet = opened();
    const closed = new Promise((resolve) => quiet.once('close', resolve));
    const stream = ask('/');
    await once(stream, 'response');
    await closed;
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(scene.session.closed || stream.closed).toBe(false);
    // And is once it is over, as any other.
    finish();
    stream.resume();
    await new Promise((resolve) => scene.session.once('close', resolve));
  });
});
