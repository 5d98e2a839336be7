/** sandbox.files, and URLs to files. */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import type { Context } from './context.ts';

const HOME = '/home/user';
const BIG_BYTES = 24 * 1024 * 1024;
const hashOf = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');

export function fileCases(context: Context): void {
  it('are written and read, as text, bytes, blobs and streams', async () => {
    const { sandbox } = context;
    const info = await sandbox.files.write('notes/ä b.txt', 'text é');
    expect(info).toMatchObject({ name: 'ä b.txt', path: `${HOME}/notes/ä b.txt` });
    expect(await sandbox.files.read('notes/ä b.txt')).toBe('text é');
    expect(await sandbox.files.read('~/notes/ä b.txt', { format: 'text' })).toBe('text é');
    const bytes = new Uint8Array([0, 255, 128, 10, 13]);
    await sandbox.files.write('/tmp/bytes', bytes.buffer);
    expect(await sandbox.files.read('/tmp/bytes', { format: 'bytes' })).toEqual(bytes);
    const blob = await sandbox.files.read('/tmp/bytes', { format: 'blob' });
    expect(new Uint8Array(await blob.arrayBuffer())).toEqual(bytes);
    await sandbox.files.write('/tmp/blob', new Blob([bytes]));
    const stream = await sandbox.files.read('/tmp/blob', { format: 'stream' });
    expect(new Uint8Array(await new Response(stream).arrayBuffer())).toEqual(bytes);
    await sandbox.files.write('/tmp/stream', new Blob(['stre', 'amed']).stream());
    expect(await sandbox.files.read('/tmp/stream')).toBe('streamed');
    await sandbox.files.write('/tmp/empty', '');
    expect(await sandbox.files.read('/tmp/empty')).toBe('');
    expect(await sandbox.files.read('/tmp/empty', { format: 'bytes' })).toEqual(new Uint8Array(0));
  });

  it('are written several at once', async () => {
    const { sandbox } = context;
    const entries = ['a', 'b', 'sub/c'].map((name) => ({ path: `many/${name}`, data: `data of ${name}` }));
    const written = await sandbox.files.write(entries);
    expect(written.map(({ path }) => path).sort()).toEqual(entries.map(({ path }) => `${HOME}/${path}`));
    if (context.has('files#writeFiles')) expect(await sandbox.files.writeFiles(entries)).toHaveLength(3);
    expect(await sandbox.files.read('many/sub/c')).toBe('data of sub/c');
    expect(await sandbox.files.write([])).toEqual([]);
  });

  it('are listed, looked at, made, moved and removed', async () => {
    const { sandbox, sdk } = context;
    const { files } = sandbox;
    expect(await files.makeDir('tree/deep/er')).toBe(true);
    expect(await files.makeDir('tree/deep')).toBe(false);
    await files.write('tree/file', '12345');
    await sandbox.commands.run('ln -s file tree/link && chmod 600 tree/file');
    expect((await files.list('tree')).map(({ name }) => name)).toEqual(['deep', 'file', 'link']);
    const all = await files.list('tree', { depth: 3 });
    expect(all.map(({ path }) => path.slice(`${HOME}/tree/`.length))).toEqual([
      'deep',
      'deep/er',
      'file',
      'link',
    ]);
    expect(await files.getInfo('tree/file')).toMatchObject({
      name: 'file',
      path: `${HOME}/tree/file`,
      type: sdk.FileType.FILE,
      size: 5,
      permissions: '-rw-------',
      owner: 'user',
      group: 'user',
    });
    expect((await files.getInfo('tree/file')).mode & 0o777).toBe(0o600);
    expect(await files.getInfo('tree/link')).toMatchObject({ symlinkTarget: `${HOME}/tree/file` });
    expect(await files.getInfo('tree')).toMatchObject({ type: sdk.FileType.DIR });
    expect(await files.rename('tree/file', 'tree/new/name')).toMatchObject({ path: `${HOME}/tree/new/name` });
    expect([await files.exists('tree/file'), await files.exists('tree/new/name')]).toEqual([false, true]);
    await files.remove('tree');
    await files.remove('tree');
    expect(await files.exists('tree')).toBe(false);
  });

  it('belong to who writes them, and fail with the right errors', async () => {
    const { sandbox, sdk } = context;
    const { files } = sandbox;
    await files.write('/root/secret', 'x', { user: 'root' });
    expect(await files.getInfo('/root/secret', { user: 'root' })).toMatchObject({ owner: 'root' });
    await expect(files.read('/no/such')).rejects.toBeInstanceOf(sdk.NotFoundError);
    await expect(files.list('/no/such')).rejects.toBeInstanceOf(sdk.NotFoundError);
    await expect(files.getInfo('/no/such')).rejects.toBeInstanceOf(sdk.NotFoundError);
    await expect(files.rename('/no/such', '/tmp/x')).rejects.toBeInstanceOf(sdk.NotFoundError);
    if (sdk.FileNotFoundError !== undefined) {
      await expect(files.read('/no/such')).rejects.toBeInstanceOf(sdk.FileNotFoundError);
    }
    await expect(files.read('/tmp')).rejects.toBeInstanceOf(sdk.InvalidArgumentError);
    await expect(files.write('/tmp', 'x')).rejects.toBeInstanceOf(sdk.InvalidArgumentError);
    await expect(files.watchDir('/etc/passwd', () => {})).rejects.toBeInstanceOf(sdk.InvalidArgumentError);
    await expect(files.watchDir('/no/such', () => {})).rejects.toBeInstanceOf(sdk.NotFoundError);
    const stranger = { user: 'nobody-here' as 'user' };
    await expect(files.read('/etc/passwd', stranger)).rejects.toBeInstanceOf(sdk.AuthenticationError);
    await expect(files.list('/', stranger)).rejects.toBeInstanceOf(sdk.AuthenticationError);
  });

  it('may be big, and come back as they were', async () => {
    const { sandbox } = context;
    const size = context.isNewest ? BIG_BYTES : BIG_BYTES / 8;
    const data = Buffer.alloc(size, 'not the same in every block: ');
    for (let at = 0; at < size; at += 4096) data.writeUInt32LE(at, at);
    await sandbox.files.write('/tmp/big', new Blob([data]));
    const { stdout } = await sandbox.commands.run('sha256sum /tmp/big; stat -c %s /tmp/big');
    expect(stdout).toBe(`${hashOf(data)}  /tmp/big\n${size}\n`);
    const back = await sandbox.files.read('/tmp/big', { format: 'stream' });
    expect(hashOf(new Uint8Array(await new Response(back).arrayBuffer()))).toBe(hashOf(data));
    await sandbox.files.remove('/tmp/big');
  });

  it('are watched', async () => {
    const { sandbox, sdk } = context;
    const { files } = sandbox;
    await files.makeDir('/tmp/watched/below');
    const seen: string[] = [];
    let ended = false;
    const handle = await files.watchDir(
      '/tmp/watched',
      ({ type, name }) => void seen.push(`${type} ${name}`),
      {
        recursive: true,
        timeoutMs: 0,
        onExit: () => {
          ended = true;
        },
      },
    );
    await files.write('/tmp/watched/one', '1');
    await sandbox.commands.run('cd /tmp/watched; chmod 600 one; mv one two; touch below/three; rm two');
    const { CREATE, WRITE, CHMOD, RENAME, REMOVE } = sdk.FilesystemEventType;
    const wanted = [`${CREATE} one`, `${WRITE} one`, `${CHMOD} one`, `${RENAME} one`, `${CREATE} two`];
    await expect
      .poll(() => seen, { timeout: 20_000 })
      .toEqual(expect.arrayContaining([...wanted, `${CREATE} below/three`, `${REMOVE} two`]));
    await handle.stop();
    await expect.poll(() => ended, { timeout: 20_000 }).toBe(true);
    const count = seen.length;
    await files.write('/tmp/watched/four', '4');
    await sleep(300);
    expect(seen).toHaveLength(count);
  });

  it.runIf(context.isNewest)('have metadata, and come compressed', async () => {
    const { files } = context.sandbox;
    const metadata = { author: 'somebody', purpose: 'a test = yes' };
    const text = 'compress me '.repeat(10_000);
    expect(await files.write('/tmp/marked', text, { metadata, gzip: true })).toMatchObject({ metadata });
    expect(await files.getInfo('/tmp/marked')).toMatchObject({ metadata, size: text.length });
    expect((await files.list('/tmp')).find(({ name }) => name === 'marked')).toMatchObject({ metadata });
    expect(await files.read('/tmp/marked', { gzip: true })).toBe(text);
    await files.write('/tmp/octets', text, { useOctetStream: true });
    expect(await files.read('/tmp/octets')).toBe(text);
    const events: (string | undefined)[] = [];
    const handle = await files.watchDir('/tmp', ({ entry }) => void events.push(entry?.path), {
      includeEntry: true,
      allowNetworkMounts: true,
    });
    await files.write('/tmp/entry', 'x');
    await expect.poll(() => events, { timeout: 20_000 }).toContain('/tmp/entry');
    await handle.stop();
  });
}

export function fileUrlCases(context: Context): void {
  it('take and give files to whoever has them, until they expire', async () => {
    const { sandbox } = context;
    const { request } = context;
    const upload = await sandbox.uploadUrl('/tmp/by-url', { useSignatureExpiration: 60 });
    const form = new FormData();
    form.append('file', new Blob(['by url']), 'by-url');
    expect((await request(upload, { method: 'POST', body: form })).status).toBe(200);
    const download = await sandbox.downloadUrl('/tmp/by-url', { user: 'user', useSignatureExpiration: 60 });
    const answer = await request(download);
    expect([answer.status, await answer.text()]).toEqual([200, 'by url']);
    expect((await request(await sandbox.downloadUrl('/tmp/by-url'))).status).toBe(200);

    const other = new URL(download);
    other.searchParams.set('path', '/etc/shadow');
    expect((await request(other)).status).toBe(401);
    const unsigned = new URL(download);
    unsigned.searchParams.delete('signature');
    expect((await request(unsigned)).status).toBe(401);
    const late = await request(await sandbox.downloadUrl('/tmp/by-url', { useSignatureExpiration: -1 }));
    expect(late.status).toBe(401);
    expect(await late.json()).toMatchObject({ code: 401, message: 'signature is already expired' });
  });
}
