/** Requests, and what the edge says itself. Over real sockets. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { connect, createServer as createNetServer, type Socket } from 'node:net';
import { describe, expect, it, type MockInstance, vi } from 'vitest';
import { answerBrokenRequest } from '../refusals.ts';
import { answerOf, SANDBOX_ID as ID, listening, portOf, useEdge } from '../testing/edge-scene.ts';

const { scene, ask } = useEdge();

describe('a request', () => {
  it('goes to the guest as it came, and its answer comes back as it is', async () => {
    let seen: IncomingMessage | undefined;
    scene.serve = async (incoming, outgoing) => {
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
      host: `${portOf(scene.guest)}-${ID}.wrenn.test`,
      'x-kept': 'kept',
      'x-forwarded-for': '127.0.0.1',
      'x-forwarded-proto': 'http',
    });
    for (const name of ['x-hop', 'e2b-traffic-access-token']) expect(seen?.headers[name]).toBeUndefined();
  });

  it('is answered in as many pieces as the guest has sent', async () => {
    let goOn = () => {};
    scene.serve = (_, outgoing) => {
      outgoing.write('one');
      goOn = () => outgoing.end('two');
    };
    let writes: MockInstance[] = [];
    scene.front.on('connection', (socket: Socket) => {
      writes = [vi.spyOn(socket, '_write'), vi.spyOn(socket, '_writev' as '_write')];
    });
    const outgoing = ask('/');
    outgoing.end();
    const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
    let text = '';
    for await (const chunk of answer) {
      text += chunk;
      if (text === 'one') goOn();
    }
    expect(text).toBe('onetwo');
    // Its head with what came first, the rest with its end.
    expect(writes.flatMap(({ mock }) => mock.calls)).toHaveLength(2);
  });

  it('is told of in the log when it is over, without its path and headers', async () => {
    await answerOf(ask('/secret?signature=secret', { headers: { 'x-access-token': 'secret' } }));
    const refused = await answerOf(ask('/secret', { to: 1 }));
    const cut = ask('/');
    scene.serve = () => cut.destroy();
    cut.end();
    await expect.poll(() => scene.logged).toHaveLength(3);
    const common = {
      requestId: expect.stringMatching(/^[0-9a-f]{16}$/),
      sandboxId: ID,
      port: portOf(scene.guest),
      method: 'GET',
      durationMs: expect.any(Number),
    };
    expect(scene.logged).toEqual([
      { ...common, status: 200 },
      { ...common, port: 1, status: 502, requestId: refused.headers['x-request-id'] },
      { ...common, status: 0, aborted: true },
    ]);
    expect(new Set(scene.logged.map((each) => (each as { requestId: string }).requestId)).size).toBe(3);
  });

  it('has the host that its sandbox wants to see', async () => {
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is what callers write
    scene.target = scene.target && { ...scene.target, maskRequestHost: 'localhost:${PORT}' };
    scene.serve = (incoming, outgoing) => outgoing.end(incoming.headers.host);
    expect((await answerOf(ask('/'))).body).toBe(`localhost:${portOf(scene.guest)}`);
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
    // A page of another origin is told as well.
    expect(page.headers['access-control-allow-origin']).toBe('*');
    scene.target = undefined;
    const dead = await answerOf(ask('/', { method: 'POST' }), 'a body that nobody reads');
    expect(dead.status).toBe(502);
    expect(JSON.parse(dead.body)).toEqual({ sandboxId: ID, message: 'The sandbox was not found', code: 502 });
  });

  it('reaches a port that the guest opens only when it is asked, with its body', async () => {
    let late: Server | undefined;
    let isTaken = false;
    scene.exposing = async (wanted) => {
      late = createServer((incoming, outgoing) => incoming.pipe(outgoing));
      const begun = once(late, 'listening');
      late.listen(wanted, '127.0.0.1');
      await begun.catch((error: NodeJS.ErrnoException) => {
        isTaken = error.code === 'EADDRINUSE';
        throw error;
      });
      return true;
    };
    const askClosed = async () => {
      isTaken = false;
      const closed = await listening(createServer());
      const port = portOf(closed);
      closed.close();
      return await answerOf(ask('/', { method: 'POST', to: port }), 'the body');
    };
    let answer = await askClosed();
    // By another process of this machine, in the moment in which it was closed.
    while (isTaken) answer = await askClosed();
    expect(answer).toMatchObject({ status: 200, body: 'the body' });
    late?.closeAllConnections();
    late?.close();
    scene.exposing = async () => true;
    expect(await answerOf(ask('/', { to: 1 }))).toMatchObject({ status: 502 });
  });

  it('that says two things about its length is refused, and the guest sees nothing of it', async () => {
    let reached = 0;
    scene.serve = (_, outgoing) => {
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
      const socket = connect(portOf(scene.front), '127.0.0.1');
      socket.on('error', () => {});
      socket.end([`POST / HTTP/1.1`, `Host: ${portOf(scene.guest)}-${ID}.wrenn.test`, ...rest].join('\r\n'));
      let text = '';
      for await (const chunk of socket) text += chunk;
      expect(text).toMatch(/^HTTP\/1\.1 400 /);
    }
    expect(reached).toBe(0);
  });

  it('has a body that is framed, whatever its method, and so is never read as another request', async () => {
    const seen: string[] = [];
    scene.serve = async (incoming, outgoing) => {
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
    scene.serve = async (incoming, outgoing) => {
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
    for (const status of ['099', '000', '101', '101 X\r\nConnection: Upgrade\r\nX:']) {
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

  it('goes out again where the guest had closed an idle connection at the moment of its use', async () => {
    await answerOf(ask('/'));
    await expect.poll(() => scene.guestSockets.size).toBe(1);
    let asked = 0;
    scene.serve = (incoming, outgoing) => {
      asked += 1;
      if (asked === 1) incoming.socket.resetAndDestroy();
      else outgoing.end('again');
    };
    expect(await answerOf(ask('/'))).toMatchObject({ status: 200, body: 'again' });
  });

  it('that is no HTTP in its middle is told nothing in the middle of the answer before it', async () => {
    scene.front.on('clientError', answerBrokenRequest);
    scene.serve = (_, outgoing) => outgoing.writeHead(200, { 'Content-Length': 1000 }).write('begun');
    const client = connect(portOf(scene.front), '127.0.0.1').on('error', () => {});
    let text = '';
    client.on('data', (chunk) => {
      text += chunk;
    });
    client.write(`GET / HTTP/1.1\r\nHost: ${portOf(scene.guest)}-${ID}.wrenn.test\r\n\r\n`);
    await expect.poll(() => text).toContain('begun');
    client.write('no HTTP\r\n\r\n');
    await new Promise((resolve) => client.once('close', resolve));
    expect(text).toMatch(/begun$/);
    await expect.poll(() => scene.edge.counts().open).toBe(0);
  });

  it('that stops in the middle of its body is given up', async () => {
    scene.serve = (incoming) => incoming.resume();
    const slow = ask('/', { method: 'POST', headers: { 'content-length': '100' } });
    slow.write('a');
    const [answer] = (await once(slow, 'response')) as [IncomingMessage];
    expect(answer.statusCode).toBe(408);
    slow.destroy();
  });

  it('that was answered before its end holds no connection for the rest', async () => {
    // A guest that does not want to know the rest, and no sandbox at all; a client that sends a byte now and then.
    scene.serve = (_, outgoing) => outgoing.writeHead(200, { 'Content-Length': '2' }).end('ok');
    for (const [id, status] of [
      [ID, '200'],
      ['z'.repeat(20), '502'],
    ] as const) {
      const client = connect(portOf(scene.front), '127.0.0.1').on('error', () => {});
      const closed = new Promise((resolve) => client.once('close', resolve));
      const host = `${portOf(scene.guest)}-${id}.wrenn.test`;
      client.write(`POST / HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 1000\r\n\r\n`);
      let text = '';
      client.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      await expect.poll(() => text).toContain(`HTTP/1.1 ${status}`);
      const dripping = setInterval(() => client.write('x'), 100);
      // It may be reset for what it goes on sending; with this test it ends in any case.
      closed.then(() => clearInterval(dripping));
      await closed;
      await expect.poll(() => scene.edge.counts().open).toBe(0);
    }
  });

  it('is one of so many at once', async () => {
    scene.serve = () => {};
    const open = Array.from({ length: 8 }, () => ask('/'));
    for (const each of open) each.on('error', () => {}).end();
    await expect.poll(() => scene.edge.counts().open).toBe(8);
    const refused = await answerOf(ask('/'));
    expect(refused).toMatchObject({ status: 429, headers: { 'retry-after': '1' } });
    for (const each of open) each.destroy();
    await expect.poll(() => scene.edge.counts().open).toBe(0);
    await expect.poll(() => scene.guestSockets.size).toBe(0);
  });

  it('is one of so many that wait for their sandbox to wake', async () => {
    let wake = (): void => {};
    scene.waking = new Promise((resolve) => {
      wake = resolve;
    });
    const all = Array.from({ length: 12 }, () => answerOf(ask('/')));
    const first = await Promise.race(all);
    expect([first.status, first.headers['retry-after']]).toEqual([429, '1']);
    // They take no place of those that run.
    expect(scene.edge.counts().open).toBe(0);
    await expect.poll(() => scene.edge.counts().requests).toBe(12);
    wake();
    const statuses = (await Promise.all(all)).map(({ status }) => status);
    expect(statuses.sort()).toEqual([...Array.from({ length: 8 }, () => 200), 429, 429, 429, 429]);
    expect((await answerOf(ask('/'))).status).toBe(200);
  });

  it('finds a fresh connection when the guest has just closed the idle one', async () => {
    expect((await answerOf(ask('/'))).body).toBe('hello');
    await expect.poll(() => scene.guestSockets.size).toBe(1);
    for (const socket of scene.guestSockets) socket.resetAndDestroy();
    expect((await answerOf(ask('/'))).body).toBe('hello');
  });
});
