/** What TLS is to the front: the way to HTTP/1.1 and HTTP/2, with certificates that change, until it ends. */
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { describe, expect, it } from 'vitest';
import { portOf, SANDBOX_ID } from './testing/edge-scene.ts';
import { DOMAIN, useFront } from './testing/front-scene.ts';

const { scene, ask, newCertificates } = useFront();

describe('TLS', () => {
  it('gives HTTP/1.1 to those who want it, websockets included', async () => {
    scene.guest.on('upgrade', (_incoming, socket: Socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n');
      socket.on('error', () => {}).pipe(socket);
    });
    const to = {
      host: '127.0.0.1',
      port: portOf(scene.server),
      ca: scene.ca,
      servername: `api.${DOMAIN}`,
      agent: false,
    } as const;
    const host = `${portOf(scene.guest)}-${SANDBOX_ID}.${DOMAIN}`;
    const plain = httpsRequest({ ...to, headers: { host } }).end();
    const [answer] = (await once(plain, 'response')) as [IncomingMessage];
    expect(answer).toMatchObject({ statusCode: 200, httpVersion: '1.1' });
    answer.resume();
    const upgrade = httpsRequest({ ...to, headers: { host, connection: 'Upgrade', upgrade: 'echo' } }).end();
    const [, socket] = (await once(upgrade, 'upgrade')) as [IncomingMessage, Socket];
    socket.write('ping');
    expect(String((await once(socket, 'data'))[0])).toBe('ping');
    const closed = new Promise((resolve) => socket.on('error', () => {}).once('close', resolve));
    scene.tellGone(SANDBOX_ID);
    await closed;
  });

  it('tells those who come without it, and is rid of them', async () => {
    const { server, session } = scene;
    await once(session, 'connect');
    const to = { port: portOf(server), host: '127.0.0.1' };
    for (const request of [
      {},
      { method: 'PUT', body: '{}' },
      { method: 'PUT', body: 'x'.repeat(1_000_000) },
    ]) {
      const answer = await fetch(`http://127.0.0.1:${to.port}/sandboxes`, request);
      expect(answer.status).toBe(400);
      expect(await answer.json()).toEqual({ code: 400, message: 'This port speaks TLS: use https://.' });
    }
    // One that never ends its own side.
    const socket = connect({ ...to, allowHalfOpen: true });
    socket.write('GET / HTTP/1.1\r\n\r\n');
    await once(socket.resume(), 'end');
    const open = () => new Promise((resolve) => server.getConnections((_, count) => resolve(count)));
    await expect.poll(open, { timeout: 10_000 }).toBe(1);
    socket.destroy();
    // What is no HTTP either.
    const other = connect(to);
    let said = '';
    other
      .on('error', () => {})
      .on('data', (chunk: Buffer) => {
        said += chunk.toString('latin1');
      });
    other.write('\0'.repeat(100));
    await once(other, 'close');
    expect(said).not.toContain('HTTP');
  });

  it('takes another certificate without breaking what is open', async () => {
    const fingerprint = async (): Promise<string> => {
      const socket = connectTls({
        host: '127.0.0.1',
        port: portOf(scene.server),
        ca: scene.ca,
        servername: `api.${DOMAIN}`,
      });
      await once(socket, 'secureConnect');
      const { fingerprint256 } = socket.getPeerCertificate();
      socket.destroy();
      return fingerprint256;
    };
    let push: ((text: string) => void) | undefined;
    scene.serve = (_, outgoing) => {
      outgoing.writeHead(200).flushHeaders();
      push = (text) => void outgoing.write(text);
    };
    const stream = ask('/');
    await once(stream, 'response');
    const before = await fingerprint();
    const again = await newCertificates();
    scene.tellChange(again.current);
    again.close();
    expect(await fingerprint()).not.toBe(before);
    push?.('still here');
    expect(String((await once(stream, 'data'))[0])).toBe('still here');
  });

  it('ends within its bound, whatever is open', async () => {
    scene.serve = (_, outgoing) => void outgoing.writeHead(200).write('for ever');
    const stream = ask('/');
    stream.on('error', () => {});
    await once(stream, 'response');
    const half = connectTls({
      host: '127.0.0.1',
      port: portOf(scene.server),
      ca: scene.ca,
      servername: 'localhost',
    });
    half.on('error', () => {});
    const closed = new Promise((resolve) => scene.server.close(resolve));
    scene.front.drain();
    scene.front.cut();
    await closed;
  });
});
