import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { FileNotFoundError, InvalidArgumentError, type Sandbox } from 'e2b';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { unary } from './connect.ts';
import { type Envd, startEnvd } from './start-envd.ts';

const asRoot = process.getuid?.() === 0;

let envd: Envd;
let sandbox: Sandbox;
let scratch: string;
let root: string;

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'wrenn-files-'));
  envd = await startEnvd();
  sandbox = await envd.sandbox();
}, 60_000);
afterAll(async () => {
  await envd.stop();
  rmSync(scratch, { recursive: true, force: true });
});
beforeEach(() => {
  root = mkdtempSync(join(scratch, 'case-'));
});

const url = (query: Record<string, string>) => `${envd.url}/files?${new URLSearchParams(query)}`;
/** `Accept-Encoding: identity`, else fetch asks for gzip by itself and hides that it got it. */
const get = (path: string, headers: Record<string, string> = {}) =>
  fetch(url({ path }), { headers: { 'Accept-Encoding': 'identity', ...headers } });
const put = (
  query: Record<string, string>,
  body: string | Uint8Array,
  headers: Record<string, string> = {},
) =>
  fetch(url(query), {
    method: 'POST',
    body: typeof body === 'string' ? body : new Uint8Array(body),
    headers: { 'Content-Type': 'application/octet-stream', ...headers },
  });
const refusal = async (response: Promise<Response>) => {
  const answer = await response;
  const body = (await answer.json()) as { code: number; message: string };
  expect(body.code).toBe(answer.status);
  return body;
};

describe('GET /files', () => {
  it('sends a file with what there is to say of it', async () => {
    const path = join(root, 'report one.json');
    writeFileSync(path, '{"a":1}');
    const response = await get(path);
    expect(response.status).toBe(200);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-type': expect.stringContaining('application/json'),
      'content-length': '7',
      'content-disposition': 'inline; filename="report one.json"',
      'accept-ranges': 'bytes',
      vary: 'Accept-Encoding',
    });
    expect(await response.text()).toBe('{"a":1}');
  });

  it('sends nothing, and says so, of an empty file', async () => {
    writeFileSync(join(root, 'empty'), '');
    const response = await get(join(root, 'empty'));
    expect([response.status, response.headers.get('Content-Length')]).toEqual([200, '0']);
  });

  it('sends ranges', async () => {
    const path = join(root, 'file');
    writeFileSync(path, '0123456789');
    const range = async (header: string, more: Record<string, string> = {}) => {
      const response = await get(path, { Range: header, ...more });
      return [response.status, response.headers.get('Content-Range'), await response.text()];
    };
    expect(await range('bytes=2-4')).toEqual([206, 'bytes 2-4/10', '234']);
    expect(await range('bytes=-3')).toEqual([206, 'bytes 7-9/10', '789']);
    expect(await range('bytes=8-99')).toEqual([206, 'bytes 8-9/10', '89']);
    expect(await range('bytes=10-')).toEqual([416, 'bytes */10', '']);
    expect(await range('bytes=0-1,3-4')).toEqual([200, null, '0123456789']);
    expect(await range('bytes=5-2')).toEqual([200, null, '0123456789']);
    const modified = (await get(path)).headers.get('Last-Modified') ?? '';
    expect(await range('bytes=2-4', { 'If-Range': modified })).toEqual([206, 'bytes 2-4/10', '234']);
    const other = new Date(0).toUTCString();
    expect(await range('bytes=2-4', { 'If-Range': other })).toEqual([200, null, '0123456789']);
    expect((await get(path, { 'If-Modified-Since': modified })).status).toBe(304);
  });

  it('compresses for who asks for just that', async () => {
    const path = join(root, 'text.txt');
    const text = 'all work and no play\n'.repeat(100_000);
    writeFileSync(path, text);
    const raw = (encoding: string) =>
      execFileSync('curl', ['-s', '-H', `Accept-Encoding: ${encoding}`, url({ path })], { maxBuffer: 1e8 });
    const compressed = raw('gzip');
    expect(compressed.length).toBeLessThan(text.length / 10);
    expect(gunzipSync(compressed).toString()).toBe(text);
    expect(raw('gzip, deflate').toString()).toBe(text);
    expect((await refusal(get(path, { 'Accept-Encoding': 'br, identity;q=0' }))).code).toBe(406);
  });

  it.each(['/proc/sys/kernel/ostype', '/sys/devices/system/cpu/possible'])(
    'reads files of the kernel, whose size says nothing: %s',
    async (path) => {
      const text = readFileSync(path, 'utf8');
      const signal = AbortSignal.timeout(5_000);
      for (const headers of [{}, { Range: 'bytes=0-99' }]) {
        const response = await fetch(url({ path }), { headers, signal });
        expect([response.status, await response.text()]).toEqual([200, text]);
      }
    },
  );

  it('says what is wrong', async () => {
    const path = join(root, 'nothing');
    expect(await refusal(get(path))).toEqual({ code: 404, message: `path '${path}' does not exist` });
    expect((await refusal(get('/etc/passwd/below'))).code).toBe(404);
    expect(await refusal(get(root))).toEqual({ code: 400, message: `path '${root}' is a directory` });
    expect((await refusal(get('a\0b'))).code).toBe(400);
    expect((await refusal(fetch(url({ path: root, username: 'nobody-at-all' })))).code).toBe(401);
    symlinkSync('circle', join(root, 'circle'));
    expect((await refusal(get(join(root, 'circle')))).code).toBe(400);
  });

  it('never opens FIFOs, sockets and devices', async () => {
    execFileSync('mkfifo', [join(root, 'fifo')]);
    for (const path of [join(root, 'fifo'), '/dev/zero', '/dev/tty']) {
      expect((await refusal(get(path))).code).toBe(400);
      expect((await refusal(put({ path }, 'x'))).code).toBe(400);
    }
  });
});

describe('POST /files', () => {
  it('stores a raw body, makes the parents, and tells what it made', async () => {
    const path = join(root, 'a/b/file.bin');
    const response = await put({ path }, new Uint8Array([0, 255, 10, 13]));
    expect(await response.json()).toEqual([{ path, name: 'file.bin', type: 'file' }]);
    expect([...readFileSync(path)]).toEqual([0, 255, 10, 13]);
    expect(statSync(path).mode & 0o777).toBe(0o644);
    expect(statSync(join(root, 'a/b')).mode & 0o777).toBe(0o755);
    expect((await put({ path }, '')).status).toBe(200);
    expect(statSync(path).size).toBe(0);
    expect((await refusal(put({}, 'x'))).code).toBe(400);
  });

  it.runIf(asRoot)('gives the file and its new parents to the user', async () => {
    const path = join(root, 'a/file');
    await put({ path, username: 'nobody' }, 'x');
    expect([statSync(path).uid, statSync(join(root, 'a')).uid, statSync(root).uid]).toEqual([
      65534, 65534, 0,
    ]);
    await put({ path, username: 'root' }, 'y');
    expect(statSync(path).uid).toBe(0);
  });

  it('writes in place: modes, links and other names of the file stay', async () => {
    const path = join(root, 'script');
    writeFileSync(path, 'something long');
    chmodSync(path, 0o755);
    linkSync(path, join(root, 'other name'));
    symlinkSync('script', join(root, 'link'));
    await put({ path: join(root, 'link') }, 'short');
    expect(readFileSync(join(root, 'other name'), 'utf8')).toBe('short');
    expect(statSync(path).mode & 0o777).toBe(0o755);
  });

  it.runIf(asRoot)('writes to files of the kernel', async () => {
    expect((await put({ path: '/proc/self/comm', username: 'root' }, 'renamed')).status).toBe(200);
    expect(await (await get('/proc/self/comm')).text()).toBe('renamed\n');
  });

  it('stores the files of a form by their names, and other fields not at all', async () => {
    const form = new FormData();
    form.append('note', 'not a file');
    form.append('file', new Blob(['one']), join(root, 'x/one.txt'));
    form.append('file', new Blob(['zwei']), join(root, 'zwei ü.txt'));
    const response = await fetch(url({}), { method: 'POST', body: form });
    expect(await response.json()).toEqual([
      { path: join(root, 'x/one.txt'), name: 'one.txt', type: 'file' },
      { path: join(root, 'zwei ü.txt'), name: 'zwei ü.txt', type: 'file' },
    ]);
    expect(readFileSync(join(root, 'zwei ü.txt'), 'utf8')).toBe('zwei');
  });

  it('refuses two files for one path, and keeps the first', async () => {
    const path = join(root, 'file');
    const form = new FormData();
    form.append('file', new Blob(['one']), 'one');
    form.append('file', new Blob(['two']), 'two');
    const body = await refusal(fetch(url({ path }), { method: 'POST', body: form }));
    expect(body).toMatchObject({
      code: 400,
      message: expect.stringContaining('multiple files to the same path'),
    });
    expect(readFileSync(path, 'utf8')).toBe('one');
  });

  it('takes gzip, and leaves nothing of what is broken', async () => {
    const path = join(root, 'file');
    const text = 'all work and no play\n'.repeat(10_000);
    const packed = gzipSync(text);
    const gzip = { 'Content-Encoding': 'gzip' };
    expect((await put({ path }, packed, gzip)).status).toBe(200);
    expect(readFileSync(path, 'utf8')).toBe(text);
    const broken = join(root, 'broken');
    expect((await refusal(put({ path: broken }, packed.subarray(0, -20), gzip))).code).toBe(400);
    expect((await refusal(put({ path: broken }, 'not gzip', gzip))).code).toBe(400);
    expect((await refusal(put({ path: broken }, 'x', { 'Content-Encoding': 'br' }))).code).toBe(400);
    expect(existsSync(broken)).toBe(false);
  });

  it('keeps metadata as attributes, and forgets them with the next upload', async () => {
    const path = join(root, 'file');
    const response = await put({ path }, 'x', { 'X-Metadata-Author': 'me', 'X-Metadata-Empty': '' });
    expect(await response.json()).toMatchObject([{ metadata: { author: 'me' } }]);
    const { body } = await unary(envd.url, 'filesystem.Filesystem/Stat', { path });
    expect(body.entry).toMatchObject({ metadata: { author: 'me' } });
    await put({ path }, 'y');
    expect((await sandbox.files.getInfo(path)).metadata).toBeUndefined();
    const tooMuch = { 'X-Metadata-A': 'x'.repeat(3000), 'X-Metadata-B': 'x'.repeat(3000) };
    expect((await refusal(put({ path }, 'z', tooMuch))).code).toBe(400);
    expect(readFileSync(path, 'utf8')).toBe('y');
  });

  it('says what is wrong', async () => {
    writeFileSync(join(root, 'file'), 'x');
    expect((await refusal(put({ path: root }, 'x'))).code).toBe(400);
    expect((await refusal(put({ path: join(root, 'file/below') }, 'x'))).code).toBe(400);
    expect((await refusal(put({ path: `${root}/a\0b` }, 'x'))).code).toBe(400);
    expect((await refusal(put({ path: join(root, 'f') }, 'x', { 'Content-Type': 'text/plain' }))).code).toBe(
      400,
    );
    const noBoundary = { 'Content-Type': 'multipart/form-data' };
    expect((await refusal(put({ path: join(root, 'f') }, 'x', noBoundary))).code).toBe(400);
    expect((await refusal(put({ path: join(root, 'f'), username: 'nobody-at-all' }, 'x'))).code).toBe(401);
  });

  it('leaves no half file behind when the sender goes away', async () => {
    const path = join(root, 'half');
    const socket = connect(envd.port, '127.0.0.1').on('error', () => {});
    socket.write(
      `POST /files?path=${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n` +
        'Content-Length: 1000000\r\n\r\nonly this',
    );
    await vi.waitFor(() => expect(existsSync(path)).toBe(true), 5000);
    socket.destroy();
    await vi.waitFor(() => expect(existsSync(path)).toBe(false), 5000);
  });
});

describe.runIf(asRoot)('a full disk', () => {
  let disk: string;
  beforeAll(() => {
    disk = mkdtempSync(join(scratch, 'disk-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'wrenn-test', disk]);
  });
  afterAll(() => {
    execFileSync('umount', [disk]);
  });

  it('is told beforehand where the length is known, and the old file stays', async () => {
    const path = join(disk, 'file');
    await put({ path }, 'precious');
    const answer = await refusal(put({ path }, new Uint8Array(8 * 1024 * 1024)));
    expect(answer).toMatchObject({ code: 507, message: expect.stringContaining('not enough disk space') });
    expect(readFileSync(path, 'utf8')).toBe('precious');
  });

  it('is told where it is found on the way, and no half file stays', async () => {
    const path = join(disk, 'half');
    const packed = gzipSync(new Uint8Array(8 * 1024 * 1024));
    expect((await refusal(put({ path }, packed, { 'Content-Encoding': 'gzip' }))).code).toBe(507);
    expect(existsSync(path)).toBe(false);
  });

  it('is an error of its own in the SDK', async () => {
    await expect(sandbox.files.write(join(disk, 'big'), 'x'.repeat(8 * 1024 * 1024))).rejects.toThrow(
      /not enough disk space/i,
    );
  });
});

describe('POST /files/compose', () => {
  const compose = (body: unknown) =>
    fetch(`${envd.url}/files/compose`, { method: 'POST', body: JSON.stringify(body) });

  it('joins files in their order and takes the parts away', async () => {
    const parts = ['b', 'a', 'c'].map((name) => join(root, name));
    for (const part of parts) writeFileSync(part, `<${part.at(-1)}>`);
    const destination = join(root, 'new/whole');
    const response = await compose({ source_paths: parts, destination });
    expect(await response.json()).toEqual({ path: destination, name: 'whole', type: 'file' });
    expect(readFileSync(destination, 'utf8')).toBe('<b><a><c>');
    expect(parts.filter(existsSync)).toEqual([]);
  });

  it('refuses, and leaves everything as it was', async () => {
    const part = join(root, 'part');
    writeFileSync(part, 'x');
    const destination = join(root, 'whole');
    const code = async (body: unknown) => (await refusal(compose(body))).code;
    expect(await code({ source_paths: [part, join(root, 'gone')], destination })).toBe(404);
    expect(await code({ source_paths: [part, root], destination })).toBe(400);
    expect(await code({ source_paths: [part], destination: part })).toBe(400);
    expect(await code({ source_paths: [], destination })).toBe(400);
    expect(await code({ source_paths: [part] })).toBe(400);
    expect(await code({ source_paths: [1], destination })).toBe(400);
    expect(await code({ source_paths: [part], destination, username: 'nobody-at-all' })).toBe(401);
    expect(await code('text')).toBe(400);
    expect([existsSync(part), existsSync(destination)]).toEqual([true, false]);
  });
});

describe('the unmodified SDK', () => {
  it('writes and reads text, bytes, blobs and streams', async () => {
    const path = join(root, 'sdk/file ü.txt');
    const info = await sandbox.files.write(path, 'grün', { metadata: { author: 'me' } });
    expect(info).toMatchObject({ name: 'file ü.txt', path, metadata: { author: 'me' } });
    expect(await sandbox.files.read(path)).toBe('grün');
    expect(await sandbox.files.read(path, { gzip: true })).toBe('grün');
    expect(Buffer.from(await sandbox.files.read(path, { format: 'bytes' })).toString()).toBe('grün');
    await sandbox.files.write(path, new Blob(['blob']), { gzip: true });
    const stream = await sandbox.files.read(path, { format: 'stream' });
    expect(await new Response(stream).text()).toBe('blob');
    await sandbox.files.write(path, new Response('streamed').body as ReadableStream, {
      useOctetStream: true,
    });
    expect(await (await sandbox.files.read(path, { format: 'blob' })).text()).toBe('streamed');
    await sandbox.files.write(path, '');
    expect(await sandbox.files.read(path)).toBe('');
  });

  it('writes many files at once', async () => {
    mkdirSync(join(root, 'many'));
    const files = Array.from({ length: 200 }, (_, i) => ({ path: join(root, `many/${i}`), data: `${i}` }));
    expect(await sandbox.files.write(files)).toHaveLength(200);
    expect(readFileSync(join(root, 'many/123'), 'utf8')).toBe('123');
  });

  it('understands the errors', async () => {
    await expect(sandbox.files.read(join(root, 'gone'))).rejects.toThrow(FileNotFoundError);
    await expect(sandbox.files.read(root)).rejects.toThrow(InvalidArgumentError);
  });
});
