/** What is passed on piece by piece, and ends with either side. Over real sockets. */
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { answerOf, SANDBOX_ID as ID, portOf, useEdge } from '../testing/edge-scene.ts';
import { flood, type Sent, untilHeldBack } from '../testing/flood.ts';

const MIB = 1024 * 1024;

// A request that is held back is silent, too, and so is one that this machine gives no time.
const { scene, ask } = useEdge({ bodyIdleTimeoutMs: 30_000 });

describe('a stream', () => {
  it('comes piece by piece, as server-sent events do', async () => {
    let push: ((text: string) => void) | undefined;
    scene.serve = (_, outgoing) => {
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
    await expect.poll(() => scene.guestSockets.size).toBe(0);
  });

  it('is held back by a reader that is slow, in both directions', async () => {
    let down: Sent = () => 0;
    scene.serve = (incoming, outgoing) => {
      if (incoming.method === 'POST') incoming.pause();
      else down = flood(outgoing);
    };
    const reader = ask('/');
    reader.end();
    const [answer] = (await once(reader, 'response')) as [IncomingMessage];
    answer.pause();
    const writer = ask('/', { method: 'POST' });
    const up = flood(writer);
    await untilHeldBack([() => down(), up], 64 * MIB);
    answer.on('error', () => {});
    for (const each of [reader, writer]) each.destroy();
  });

  it('that the guest cuts off is no answer that looks whole', async () => {
    scene.serve = (incoming, outgoing) => {
      outgoing.writeHead(200);
      outgoing.write('half');
      setTimeout(() => incoming.socket.resetAndDestroy(), 50);
    };
    await expect(answerOf(ask('/'))).rejects.toMatchObject({ code: 'ECONNRESET' });
  });

  it('is reset when its sandbox is gone, and the idle connections with it', async () => {
    expect((await answerOf(ask('/'))).status).toBe(200);
    scene.serve = (_, outgoing) => void outgoing.write('begun');
    const ended = expect(answerOf(ask('/'))).rejects.toMatchObject({ code: 'ECONNRESET' });
    await expect.poll(() => scene.edge.counts().open).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 50));
    scene.tellGone(ID);
    await ended;
    await expect.poll(() => scene.guestSockets.size).toBe(0);
    await expect.poll(() => scene.edge.counts().open).toBe(0);
  });
});

describe('a change of the protocol', () => {
  it('that is answered with less than was said is broken off, with nothing of ours in it', async () => {
    scene.guest.on('upgrade', (_incoming, socket: Socket) => {
      socket.on('error', () => {});
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun');
      setTimeout(() => socket.resetAndDestroy(), 50);
    });
    const outgoing = ask('/', { headers: { Connection: 'Upgrade', Upgrade: 'x' } });
    outgoing.end();
    const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
    let text = '';
    answer.on('data', (chunk) => {
      text += chunk;
    });
    await new Promise((resolve) => answer.once('error', resolve));
    expect(text).toBe('begun');
  });

  it('joins the two sides until one of them goes', async () => {
    scene.guest.on('upgrade', (_incoming, socket: Socket, head: Buffer) => {
      socket.on('error', () => {});
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nwelcome ',
      );
      if (head.length > 0) socket.write(head);
      socket.pipe(socket);
    });
    const outgoing = ask('/', { headers: { Connection: 'Upgrade', Upgrade: 'echo' } });
    outgoing.end();
    const [answer, socket, head] = (await once(outgoing, 'upgrade')) as [IncomingMessage, Socket, Buffer];
    expect(answer.headers.upgrade).toBe('echo');
    socket.on('error', () => {});
    let text = head.toString();
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.write('ping');
    await expect.poll(() => text).toBe('welcome ping');
    const closed = new Promise((resolve) => socket.once('close', resolve));
    scene.tellGone(ID);
    await closed;
    await expect.poll(() => scene.guestSockets.size).toBe(0);
    await expect.poll(() => scene.logged).toMatchObject([{ sandboxId: ID, method: 'UPGRADE', status: 101 }]);
  });

  it('that the guest does not want is answered as the guest answers', async () => {
    scene.serve = (_, outgoing) => outgoing.writeHead(426).end('no');
    const outgoing = ask('/', { headers: { Connection: 'Upgrade', Upgrade: 'echo' } });
    expect(await answerOf(outgoing)).toMatchObject({ status: 426, body: 'no' });
    scene.target = undefined;
    const dead = ask('/', { headers: { Connection: 'Upgrade', Upgrade: 'echo' } });
    expect(await answerOf(dead)).toMatchObject({ status: 502 });
  });

  it('that is refused holds no connection of a client that never ends its side', async () => {
    scene.serve = (_, outgoing) => outgoing.writeHead(426, { 'X-Latin': 'f\u00fcr' }).end('no');
    const sockets = new Set<Socket>();
    scene.front.on('connection', (socket) => sockets.add(socket.once('close', () => sockets.delete(socket))));
    const heads: string[] = [];
    for (const id of [ID, 'z'.repeat(20)]) {
      const client = connect({ port: portOf(scene.front), host: '127.0.0.1', allowHalfOpen: true });
      client.on('error', () => {});
      client.on('data', (chunk) => heads.push(chunk.toString('latin1')));
      client.write(
        `GET / HTTP/1.1\r\nHost: ${portOf(scene.guest)}-${id}.wrenn.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n`,
      );
    }
    await expect.poll(() => heads.join('')).toMatch(/ 502 /);
    await expect.poll(() => heads.join('')).toContain('X-Latin: f\u00fcr\r\n');
    expect(scene.edge.counts().open).toBeLessThanOrEqual(1);
    await expect.poll(() => sockets.size, { timeout: 5000 }).toBe(0);
    expect(scene.edge.counts().open).toBe(0);
  });
});
