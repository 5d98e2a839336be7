/** What a guest may reach by name: over plain HTTP and TLS, with real packets, to servers that tell what came. */
import { parseIpv4, rangeAround } from '@wrenn/host';
import { beforeEach, describe, expect, it } from 'vitest';
import { queryNameServer } from './testing/gateway-clients.ts';
import { EVERYWHERE, get, named, RESOLVER, useGatewayScene } from './testing/gateway-scene.ts';
import { WORLD } from './testing/lab.ts';
import type { Probe } from './testing/traffic.ts';

const { scene, ask, asked, seenSince, set, setRules } = useGatewayScene();

describe('over plain HTTP a guest', () => {
  beforeEach(() => set(['example.com', '*.example.org']));

  it('reaches what is named, wherever it says that it is', async () => {
    expect((await asked('example.com')).got).toMatch(/^HTTP\/1.1 200 OK[\s\S]*GET example.com 0$/);
    expect((await asked('WWW.Example.ORG:80', { address: '192.0.2.77' })).got).toContain('200 OK');
  });

  it('is told in one line what it may not', async () => {
    const before = scene.internet.seen.length;
    const { got, how } = await asked('evil.example');
    expect(got).toMatch(/^HTTP\/1.1 403 [\s\S]*\r\n\r\nThis sandbox may not reach evil.example.\n$/);
    expect(how).toBe('end');
    for (const host of ['example.org', WORLD.internet, 'example.com.evil.example']) {
      expect((await asked(host)).got, host).toMatch(/^HTTP\/1.1 40[03] /);
    }
    expect(scene.internet.seen.slice(before)).toEqual([]);
  });

  it('is judged for each request of a connection, sent ahead or later', async () => {
    const before = scene.internet.seen.length;
    const mixed = [
      get('example.com', '/1'),
      get('evil.example', '/2'),
      get('example.com', '/3', 'Connection: close\r\n'),
    ];
    for (const send of [mixed, [mixed.join('')]]) {
      const { got } = await ask({ send });
      expect(got.match(/HTTP\/1.1 \d+/g)).toEqual(['HTTP/1.1 200', 'HTTP/1.1 403', 'HTTP/1.1 200']);
    }
    expect(scene.internet.seen.slice(before).filter((line) => line.includes('evil'))).toEqual([]);
  });

  it('cannot hide a request in another one', async () => {
    const hidden = get('evil.example', '/hidden');
    const before = scene.internet.seen.length;
    const tries = [
      `POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${hidden}`,
      `POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n${hidden}`,
      `POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\nContent-Length: 99\r\n\r\n${hidden}`,
      `GET / HTTP/1.1\r\nHost: example.com\r\nHost: evil.example\r\n\r\n`,
      `GET http://evil.example/ HTTP/1.1\r\nHost: example.com\r\n\r\n`,
      `CONNECT evil.example:80 HTTP/1.1\r\nHost: example.com\r\n\r\n`,
      `GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n${hidden}`,
      `GET / HTTP/1.1\r\nHost : evil.example\r\n\r\n`,
      `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`,
    ];
    for (const send of tries) {
      const { got } = await ask({ send: [send], forMs: 1500 });
      expect(got, send).not.toContain('evil');
    }
    expect(scene.internet.seen.slice(before).filter((line) => /evil|hidden/.test(line))).toEqual([]);
  });

  it('sends and gets bodies, and speaks over websockets', async () => {
    const body = ask({
      send: [
        'POST / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\nContent-Length: 200000\r\n\r\n',
        200_000,
      ],
    });
    expect((await body).got).toContain('POST example.com 200000');
    expect((await ask({ send: [get('example.com', '/big', 'Connection: close\r\n')] })).size).toBeGreaterThan(
      3e6,
    );
    const upgrade = get('example.com', '/ws', 'Connection: Upgrade\r\nUpgrade: websocket\r\n');
    const socket = await ask({ send: [upgrade, 'back and forth'], forMs: 4000 });
    expect(socket).toMatchObject({
      how: 'open',
      got: expect.stringMatching(/^HTTP\/1.1 101 [\s\S]*back and forth$/),
    });
  });

  it('does not reach a host without an address, or one that does not answer', async () => {
    await set(['nowhere.example', '*.allowed.net']);
    expect((await asked('nowhere.example')).got).toMatch(/^HTTP\/1.1 502 [\s\S]*has no address/);
    expect((await asked('dead.allowed.net', { forMs: 8000 })).got).toMatch(/^HTTP\/1.1 502 /);
  });
});

describe('over TLS a guest', () => {
  beforeEach(() => set(['example.com', '*.example.org']));

  it('reaches what is named', async () => {
    const heard = await ask({ servername: 'example.com', send: ['and back'], forMs: 4000 });
    expect(heard).toMatchObject({ got: 'helloand back', how: 'open' });
    expect((await ask({ servername: 'www.example.org', send: [], bytes: 5 })).got).toBe('hello');
  });

  it('is reset when it asks for something else, hides it, or does not speak TLS', async () => {
    const before = scene.internet.seen.length;
    for (const servername of ['evil.example', 'example.org', '']) {
      expect(await ask({ servername, send: [] }), servername).toMatchObject({
        how: 'ECONNRESET',
        size: 0,
      });
    }
    const plain = await ask({ port: 443, send: [get('example.com')] });
    expect(plain).toMatchObject({ how: 'ECONNRESET', size: 0 });
    expect(scene.internet.seen.slice(before)).toEqual([]);
  });

  it('moves many bytes, and no more of them wait than buffers hold', async () => {
    const heard = await ask({
      servername: 'example.com',
      send: [2_000_000],
      bytes: 2_000_005,
      forMs: 10_000,
    });
    expect(heard).toMatchObject({ how: 'enough', size: 2_000_005 });
  });
});

describe('with names, a guest still', () => {
  const tcp = (address: string, port: number): Probe => ({ kind: 'tcp', address, port });
  const udp = (address: string, port: number): Probe => ({ kind: 'udp', address, port });

  it('reaches nothing else: no other port, no UDP, of a name server port 53 alone', async () => {
    await scene.lab.listen(scene.lab.worldNetns, 7000);
    await set(['example.com']);
    const results = await scene.lab.probe(scene.guest, [
      ...[tcp, udp].map((kind) => kind(WORLD.internet, 7000)),
      ...[tcp, udp].map((kind) => kind(RESOLVER, 7000)),
      udp(WORLD.internet, 443),
      tcp('169.254.0.22', 80),
    ]);
    expect(results.every((result) => 'failed' in result)).toBe(true);
    const before = scene.internet.seen.length;
    await queryNameServer(scene.guest, RESOLVER);
    expect(scene.internet.seen.slice(before)).toHaveLength(1);
  });

  it('reaches addresses that are allowed, past the gateway', async () => {
    const allowed = [rangeAround(parseIpv4(WORLD.internet), 32)];
    await setRules({ ...named(['example.com']), allowed });
    expect((await asked('evil.example')).got).toContain('200 OK');
    await set(['example.com']);
    expect((await asked('evil.example')).got).toContain('403');
  });

  it('is led into no private network, and not to the host or to another guest', async () => {
    await set(['*.allowed.net']);
    for (const name of ['private', 'metadata', 'self', 'host', 'lan', 'guest']) {
      const heard = await asked(`${name}.allowed.net`);
      expect(heard.got, name).toMatch(/^HTTP\/1.1 403 [\s\S]*is in a network that sandboxes do not reach/);
      expect(await ask({ servername: `${name}.allowed.net`, send: [] })).toMatchObject({
        how: 'ECONNRESET',
      });
    }
    expect((await asked('mixed.allowed.net')).got).toContain('200 OK');
  });
});

describe('other rules', () => {
  it('end connections that they forbid, and no others', async () => {
    await set(['example.com', 'www.example.org']);
    const before = scene.internet.seen.length;
    const running = [
      ask({ send: [get('example.com', '/endless')], forMs: 6000 }),
      ask({ servername: 'example.com', send: [], forMs: 6000 }),
      ask({ send: [get('www.example.org', '/endless')], forMs: 6000 }),
      ask({ servername: 'www.example.org', send: [], forMs: 6000 }),
    ];
    const endless = ['http example.com /endless', 'http www.example.org /endless'];
    await seenSince(before, ...endless, 'tls example.com', 'tls www.example.org');
    await set(['www.example.org']);
    const ends = (await Promise.all(running)).map(({ how }) => how);
    expect(ends).toEqual(['ECONNRESET', 'ECONNRESET', 'open', 'open']);
    expect((await asked('example.com')).got).toContain('403');
  });

  it('without names close the door', async () => {
    await set(['example.com']);
    const before = scene.internet.seen.length;
    const running = ask({ servername: 'example.com', send: [], forMs: 6000 });
    await seenSince(before, 'tls example.com');
    await setRules({ allowed: [], refused: [EVERYWHERE] });
    expect((await running).how).toBe('ECONNRESET');
    expect((await asked('example.com')).how).toBe('EHOSTUNREACH');
    await setRules({ allowed: [], refused: [] });
    expect((await asked('evil.example')).got).toContain('200 OK');
    await set(['example.com']);
    expect((await asked('evil.example')).got).toContain('403');
  });
});
