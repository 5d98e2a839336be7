/** Large files: what they cost envd in memory, and that slow ends slow the other end down. */
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, createReadStream, mkdtempSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { get as httpGet, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { createGunzip, createGzip } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Envd, startEnvd } from './start-envd.ts';

const MIB = 1024 * 1024;
const SIZE_BYTES = 512 * MIB;
/** What a transfer may take on top of the idle agent, whatever its size. */
const MEMORY_MAX_BYTES = 96 * MIB;

let envd: Envd;
let scratch: string;
let source: string;
let digest: string;

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'wrenn-transfer-'));
  source = join(scratch, 'source');
  const block = randomBytes(MIB);
  const hash = createHash('sha256');
  const file = openSync(source, 'w');
  for (let i = 0; i < SIZE_BYTES / MIB; i++) {
    block.writeUInt32LE(i);
    hash.update(block);
    writeSync(file, block);
  }
  closeSync(file);
  digest = hash.digest('hex');
  envd = await startEnvd();
}, 60_000);
afterAll(async () => {
  await envd.stop();
  rmSync(scratch, { recursive: true, force: true });
});

const url = (path: string) => `${envd.url}/files?${new URLSearchParams({ path })}`;

async function digestOf(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of chunks) hash.update(chunk);
  return hash.digest('hex');
}

const raw = (headers: Record<string, string>) => ({ 'Content-Type': 'application/octet-stream', ...headers });

async function post(path: string, body: Readable, headers: Record<string, string>): Promise<void> {
  const response = await fetch(url(path), {
    method: 'POST',
    body: Readable.toWeb(body) as ReadableStream,
    headers,
    duplex: 'half',
  } as RequestInit);
  expect(response.status).toBe(200);
}

describe('512 MiB', () => {
  const transfers: readonly [string, (path: string) => Promise<void>][] = [
    ['a raw body', (path) => post(path, createReadStream(source), raw({}))],
    [
      'a gzipped body',
      (path) => {
        const packed = createReadStream(source).pipe(createGzip({ level: 0 }));
        return post(path, packed, raw({ 'Content-Encoding': 'gzip' }));
      },
    ],
    [
      'a form',
      (path) => {
        async function* form() {
          yield Buffer.from('--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n');
          yield* createReadStream(source, { highWaterMark: 1000_003 });
          yield Buffer.from('\r\n--b--\r\n');
        }
        return post(path, Readable.from(form()), { 'Content-Type': 'multipart/form-data; boundary=b' });
      },
    ],
  ];

  it.each(transfers)(
    'as %s are stored without being held in memory',
    async (_what, transfer) => {
      const before = envd.rssBytes();
      const path = join(scratch, 'target');
      await transfer(path);
      expect(await digestOf(createReadStream(path))).toBe(digest);
      expect(envd.peakRssBytes() - before).toBeLessThan(MEMORY_MAX_BYTES);
      rmSync(path);
    },
    120_000,
  );

  it.each([['identity'], ['gzip']])(
    'are sent in %s without being held in memory',
    async (encoding) => {
      const before = envd.rssBytes();
      const response = await download(encoding);
      expect(response.headers['content-encoding']).toBe(encoding === 'gzip' ? 'gzip' : undefined);
      const contents = encoding === 'gzip' ? response.pipe(createGunzip()) : response;
      expect(await digestOf(contents)).toBe(digest);
      expect(envd.peakRssBytes() - before).toBeLessThan(MEMORY_MAX_BYTES);
    },
    120_000,
  );
});

/** By node:http: fetch takes gzip off by itself, many times slower than envd makes it. */
function download(encoding: string): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    httpGet(url(source), { headers: { 'Accept-Encoding': encoding } }, resolve).once('error', reject);
  });
}

describe('a reader that stops reading', () => {
  it.each([
    ['a file', ''],
    ['a compressed file', 'Accept-Encoding: gzip\r\n'],
  ])(
    'costs no memory and no file after it has gone: %s',
    async (_what, header) => {
      const before = { rss: envd.rssBytes(), files: envd.openFiles() };
      const sockets = Array.from({ length: 8 }, () => {
        const socket = connect(envd.port, '127.0.0.1').pause();
        socket.on('error', () => {});
        socket.write(`GET /files?path=${source} HTTP/1.1\r\nHost: x\r\n${header}\r\n`);
        return socket;
      });
      await sleep(1500);
      expect(envd.rssBytes() - before.rss).toBeLessThan(MEMORY_MAX_BYTES);
      expect((await fetch(`${envd.url}/health`)).status).toBe(204);
      for (const socket of sockets) socket.destroy();
      await expect.poll(() => envd.openFiles(), { timeout: 10_000 }).toBeLessThanOrEqual(before.files + 1);
    },
    60_000,
  );
});

describe('a sender that is quicker than the disk', () => {
  it('waits', async () => {
    // Nobody reads this body: the file cannot be made, as its parent is a file.
    const socket = connect(envd.port, '127.0.0.1');
    const answer = new Promise<string>((resolve) => {
      socket.once('data', (data) => resolve(data.toString()));
      socket.once('error', (error) => resolve(error.message));
    });
    const before = envd.rssBytes();
    socket.write(
      `POST /files?path=${source}/below HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n` +
        `Content-Length: ${SIZE_BYTES}\r\n\r\n`,
    );
    for (let i = 0; i < 64 && !socket.destroyed && socket.writable; i++) socket.write(Buffer.alloc(MIB));
    expect(await answer).toContain('HTTP/1.1 400');
    socket.destroy();
    expect(envd.peakRssBytes() - before).toBeLessThan(MEMORY_MAX_BYTES);
    expect(statSync(source).size).toBe(SIZE_BYTES);
  }, 30_000);
});
