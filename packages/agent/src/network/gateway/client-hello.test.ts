/** Hellos of real clients, hostile ones, and every way to cut them up. */
import { once } from 'node:events';
import net from 'node:net';
import tls from 'node:tls';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createHelloReader, type Hello } from './client-hello.ts';

const MAX_BYTES = 16 * 1024;

function read(chunks: readonly Uint8Array[]): Hello {
  const reader = createHelloReader(MAX_BYTES);
  let hello: Hello = { kind: 'more' };
  for (const chunk of chunks) {
    hello = reader.push(chunk);
    if (hello.kind !== 'more') break;
  }
  return hello;
}

/** What a TLS client sends first. */
async function realHello(options: tls.ConnectionOptions): Promise<Buffer> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const client = tls.connect({ host: '127.0.0.1', port, rejectUnauthorized: false, ...options });
  client.on('error', () => {});
  const [socket]: net.Socket[] = await once(server, 'connection');
  const [data]: Buffer[] = await once(socket as net.Socket, 'data');
  client.destroy();
  socket?.destroy();
  server.close();
  return data as Buffer;
}

const u16 = (value: number) => Buffer.from([value >> 8, value & 255]);
const vector16 = (bytes: Buffer) => Buffer.concat([u16(bytes.length), bytes]);
const extension = (type: number, data: Buffer) => Buffer.concat([u16(type), vector16(data)]);
const serverName = (name: string, type = 0) =>
  extension(0, vector16(Buffer.concat([Buffer.from([type]), vector16(Buffer.from(name, 'latin1'))])));

function message(extensions: Buffer | undefined): Buffer {
  const body = Buffer.concat([
    Buffer.from([3, 3]),
    Buffer.alloc(32, 7),
    Buffer.from([0]),
    vector16(Buffer.from([0x13, 0x01])),
    Buffer.from([1, 0]),
    ...(extensions === undefined ? [] : [vector16(extensions)]),
  ]);
  return Buffer.concat([Buffer.from([1, 0]), u16(body.length), body]);
}

const record = (bytes: Buffer) => Buffer.concat([Buffer.from([22, 3, 1]), vector16(bytes)]);
const hello = (...extensions: Buffer[]) => record(message(Buffer.concat(extensions)));

const padding = extension(21, Buffer.alloc(20));
const plain = hello(padding, serverName('www.Example.com'), padding);

describe('the hello of a real client', () => {
  it.each([
    { servername: 'files.example.com' },
    { servername: 'files.example.com', maxVersion: 'TLSv1.2' as const },
    { servername: 'files.example.com', ALPNProtocols: ['h2', 'http/1.1'] },
  ])('names its server', async (options) => {
    const bytes = await realHello(options);
    expect(read([bytes])).toEqual({ kind: 'name', name: 'files.example.com' });
    for (let at = 1; at < bytes.length; at += 1) {
      expect(read([bytes.subarray(0, at)]), `${at} bytes`).toEqual({ kind: 'more' });
    }
  });

  it('without a name is refused', async () => {
    expect(read([await realHello({ servername: '' })])).toMatchObject({ kind: 'refused' });
  });
});

describe('a hello', () => {
  it('may come in any pieces, of segments and of records', () => {
    const whole = message(Buffer.concat([padding, serverName('www.example.com')]));
    const cuts = fc.array(fc.integer({ min: 1, max: whole.length - 1 }), { maxLength: whole.length });
    const pieces = (bytes: Buffer, at: number[]) => {
      const sorted = [...new Set([0, ...at.filter((one) => one < bytes.length), bytes.length])];
      sorted.sort((a, b) => a - b);
      return sorted.slice(1).map((end, n) => bytes.subarray(sorted[n], end));
    };
    fc.assert(
      fc.property(cuts, cuts, (records, segments) => {
        const sent = Buffer.concat(pieces(whole, records).map(record));
        expect(read(pieces(sent, segments))).toEqual({ kind: 'name', name: 'www.example.com' });
      }),
    );
    const bytewise = Buffer.concat([...whole].map((byte) => record(Buffer.from([byte]))));
    expect(read([...bytewise].map((byte) => Buffer.from([byte])))).toMatchObject({ kind: 'name' });
  });

  it('is sent on as it came, with what came after it', () => {
    const reader = createHelloReader(MAX_BYTES);
    const more = Buffer.from('what the client sent ahead');
    reader.push(plain.subarray(0, 9));
    expect(reader.push(Buffer.concat([plain.subarray(9), more])).kind).toBe('name');
    expect(reader.raw()).toEqual(Buffer.concat([plain, more]));
  });

  it.each<[string, Buffer]>([
    ['without extensions', record(message(undefined))],
    ['without a name', hello(padding)],
    ['with the name of something else than a host', hello(serverName('example.com', 1))],
    ['with an address', hello(serverName('192.0.2.1'))],
    ['with half a name', hello(serverName('localhost'))],
    ['with a NUL in the name', hello(serverName('example.com\0.evil.net'))],
    ['with an empty name', hello(serverName(''))],
    ['with two names', hello(serverName('example.com'), serverName('evil.net'))],
    [
      'with two names in one extension',
      hello(
        extension(
          0,
          vector16(
            Buffer.concat(
              ['a.com', 'b.com'].map((n) => Buffer.concat([Buffer.from([0]), vector16(Buffer.from(n))])),
            ),
          ),
        ),
      ),
    ],
    ['with a hidden name', hello(serverName('example.com'), extension(0xfe0d, Buffer.alloc(40)))],
    [
      'with bytes behind its extensions',
      record(withLength(Buffer.concat([message(padding), Buffer.alloc(3)]))),
    ],
    ['that is something else', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    ['of SSL 2', Buffer.from([0x80, 0x2e, 1, 0, 2])],
    ['in an empty record', Buffer.concat([Buffer.from([22, 3, 1, 0, 0]), plain])],
    ['in a record that is too long', Buffer.from([22, 3, 1, 0x40, 1])],
    ['that is an alert', Buffer.from([21, 3, 1, 0, 2, 2, 40])],
    ['that is another message', record(Buffer.from([2, 0, 0, 1, 0]))],
    ['that says it is huge', record(Buffer.from([1, 255, 255, 255]))],
  ])('%s is refused', (_, bytes) => {
    expect(read([bytes])).toMatchObject({ kind: 'refused' });
    expect(read([...bytes].map((byte) => Buffer.from([byte])))).toMatchObject({ kind: 'refused' });
  });

  it('that never ends is refused at its bound', () => {
    const endless = Array.from({ length: 40 }, () => record(Buffer.alloc(1024, 0)));
    endless[0] = record(Buffer.concat([Buffer.from([1, 0, 0x3f, 0xff]), Buffer.alloc(1000)]));
    expect(read(endless)).toMatchObject({ kind: 'refused' });
  });

  it('of any bytes throws nothing and names nothing that is not in it', () => {
    const anything = fc.uint8Array({ maxLength: 300 });
    const nearly = fc
      .tuple(fc.integer({ min: 0, max: plain.length - 1 }), fc.integer({ min: 0, max: 255 }))
      .map(([at, byte]) =>
        Buffer.concat([plain.subarray(0, at), Buffer.from([byte]), plain.subarray(at + 1)]),
      );
    const inRecord = anything.map((bytes) =>
      record(Buffer.concat([Buffer.from([1, 0, 0, bytes.length]), bytes])),
    );
    fc.assert(
      fc.property(fc.oneof(anything, nearly, inRecord), (bytes) => {
        const found = read([bytes]);
        if (found.kind !== 'name') return;
        expect(Buffer.from(bytes).toString('latin1').toLowerCase()).toContain(found.name);
      }),
      { numRuns: 3000 },
    );
  });

  it('costs in proportion to what was sent, in however many pieces', () => {
    const startedAt = performance.now();
    const long = record(message(Buffer.concat([extension(21, Buffer.alloc(15_000)), serverName('a.com')])));
    for (let round = 0; round < 20; round += 1) {
      expect(read([...long].map((byte) => Buffer.from([byte])))).toMatchObject({ kind: 'name' });
    }
    expect(performance.now() - startedAt).toBeLessThan(5000);
  });
});

/** A message whose header says how long it is now. */
function withLength(bytes: Buffer): Buffer {
  return Buffer.concat([Buffer.from([1, 0]), u16(bytes.length - 4), bytes.subarray(4)]);
}
