import { execFile, execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { FileNotFoundError, FileType, type Sandbox } from 'e2b';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { unary } from './connect.ts';
import { type Envd, startEnvd } from './start-envd.ts';

const asRoot = process.getuid?.() === 0;

let envd: Envd;
let sandbox: Sandbox;
let scratch: string;
let root: string;

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'wrenn-filesystem-'));
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

const call = (method: string, message: Record<string, unknown>, headers: Record<string, string> = {}) =>
  unary(envd.url, `filesystem.Filesystem/${method}`, message as never, { headers });
const as = (user: string) => ({ Authorization: `Basic ${Buffer.from(`${user}:`).toString('base64')}` });
const names = (body: Record<string, unknown>) => {
  const entries = (body.entries ?? []) as { path: string }[];
  return entries.map(({ path }) => path.slice(root.length + 1));
};

describe('Stat', () => {
  it('tells all there is to know of a file', async () => {
    const path = join(root, 'file');
    writeFileSync(path, 'hello', { mode: 0o640 });
    utimesSync(path, 1, 1_700_000_000.5);
    const { status, body } = await call('Stat', { path });
    expect(status).toBe(200);
    expect(body.entry).toMatchObject({
      name: 'file',
      type: 'FILE_TYPE_FILE',
      path,
      size: '5',
      mode: 0o640,
      permissions: '-rw-r-----',
      modifiedTime: '2023-11-14T22:13:20.500Z',
    });
  });

  it('tells of a link its own size and permissions, and the type and mode of its end', async () => {
    mkdirSync(join(root, 'dir'), { mode: 0o750 });
    symlinkSync('dir', join(root, 'near'));
    symlinkSync(join(root, 'near'), join(root, 'far'));
    const { body } = await call('Stat', { path: join(root, 'far') });
    expect(body.entry).toMatchObject({
      type: 'FILE_TYPE_DIRECTORY',
      mode: 0o750,
      permissions: 'Lrwxrwxrwx',
      symlinkTarget: join(root, 'dir'),
      size: String(join(root, 'near').length),
    });
  });

  it('tells of links that lead nowhere, or in a circle, that they are links', async () => {
    symlinkSync('gone', join(root, 'broken'));
    symlinkSync('circle', join(root, 'circle'));
    for (const [name, target] of [
      ['broken', 'gone'],
      ['circle', 'circle'],
    ] as const) {
      const { body } = await call('Stat', { path: join(root, name) });
      expect(body.entry).toMatchObject({ type: 'FILE_TYPE_SYMLINK', symlinkTarget: target });
    }
  });

  it('looks at FIFOs and devices without opening them', async () => {
    execFileSync('mkfifo', [join(root, 'fifo')]);
    const { body } = await call('Stat', { path: join(root, 'fifo') });
    expect(body.entry).toMatchObject({ permissions: 'prw-r--r--' });
    expect((body.entry as Record<string, unknown>).type).toBeUndefined();
    expect((await call('Stat', { path: '/dev/null' })).body.entry).toMatchObject({
      permissions: 'Dcrw-rw-rw-',
    });
  });

  it('says what is wrong with a path', async () => {
    expect(await call('Stat', { path: join(root, 'nothing') })).toMatchObject({
      status: 404,
      body: { code: 'not_found' },
    });
    expect((await call('Stat', { path: '/etc/passwd/below' })).body.code).toBe('not_found');
    expect((await call('Stat', { path: 'a\0b' })).body.code).toBe('invalid_argument');
    expect((await call('Stat', { path: '~other/x' })).body.code).toBe('invalid_argument');
    expect((await call('Stat', { path: `/${'x'.repeat(300)}` })).body.code).toBe('invalid_argument');
    expect(await call('Stat', { path: root }, as('nobody-at-all'))).toMatchObject({
      status: 401,
      body: { code: 'unauthenticated', message: "invalid username: 'nobody-at-all'" },
    });
  });
});

describe('ListDir', () => {
  it('is lexical, each directory before what is in it, and as deep as asked', async () => {
    for (const dir of ['b/x/deep', 'a']) mkdirSync(join(root, dir), { recursive: true });
    for (const file of ['b/2', 'b/10', 'c', 'B']) writeFileSync(join(root, file), '');
    const list = async (depth: number) => names((await call('ListDir', { path: root, depth })).body);
    expect(await list(0)).toEqual(['B', 'a', 'b', 'c']);
    expect(await list(1)).toEqual(['B', 'a', 'b', 'c']);
    expect(await list(2)).toEqual(['B', 'a', 'b', 'b/10', 'b/2', 'b/x', 'c']);
    expect(await list(99)).toEqual(['B', 'a', 'b', 'b/10', 'b/2', 'b/x', 'b/x/deep', 'c']);
  });

  it('tells links and does not follow them, but lists a directory that is asked for by a link', async () => {
    mkdirSync(join(root, 'dir'));
    writeFileSync(join(root, 'dir/file'), '');
    symlinkSync('..', join(root, 'dir/up'));
    symlinkSync('dir', join(root, 'link'));
    symlinkSync('gone', join(root, 'broken'));
    const { body } = await call('ListDir', { path: root, depth: 9 });
    expect(names(body)).toEqual(['broken', 'dir', 'dir/file', 'dir/up', 'link']);
    expect(names((await call('ListDir', { path: join(root, 'link'), depth: 9 })).body)).toEqual([
      'link/file',
      'link/up',
    ]);
  });

  it('refuses files and what is not there', async () => {
    writeFileSync(join(root, 'file'), '');
    expect((await call('ListDir', { path: join(root, 'file') })).body.code).toBe('invalid_argument');
    expect((await call('ListDir', { path: join(root, 'gone') })).body.code).toBe('not_found');
  });

  it('refuses to list more than it can hold, and lives on', async () => {
    execFileSync('python3', [
      '-c',
      `import sys\nfor i in range(60000): open(sys.argv[1] + '/%d' % i, 'w').close()`,
      root,
    ]);
    const before = envd.rssBytes();
    expect((await call('ListDir', { path: root })).body.code).toBe('resource_exhausted');
    expect(envd.rssBytes() - before).toBeLessThan(64 * 1024 * 1024);
    expect((await call('Stat', { path: root })).status).toBe(200);
  }, 30_000);

  it('lists 20,000 entries with their owners', async () => {
    execFileSync('python3', [
      '-c',
      `import sys\nfor i in range(20000): open(sys.argv[1] + '/%d' % i, 'w').close()`,
      root,
    ]);
    expect(await sandbox.files.list(root)).toHaveLength(20_000);
  }, 30_000);
});

describe('MakeDir', () => {
  it('makes parents too, and refuses what exists', async () => {
    const path = join(root, 'a/b/c');
    const { body } = await call('MakeDir', { path });
    expect(body.entry).toMatchObject({ path, type: 'FILE_TYPE_DIRECTORY', permissions: 'drwxr-xr-x' });
    expect(statSync(join(root, 'a')).mode & 0o777).toBe(0o755);
    expect(await call('MakeDir', { path })).toMatchObject({ status: 409, body: { code: 'already_exists' } });
    writeFileSync(join(root, 'file'), '');
    expect((await call('MakeDir', { path: join(root, 'file') })).body.code).toBe('invalid_argument');
    expect((await call('MakeDir', { path: join(root, 'file/x') })).body.code).toBe('invalid_argument');
  });

  it.runIf(asRoot)('gives what it makes to the user, and leaves what was there alone', async () => {
    await call('MakeDir', { path: join(root, 'mine') });
    await call('MakeDir', { path: join(root, 'mine/a/b') }, as('nobody'));
    const owner = (path: string) => statSync(join(root, path)).uid;
    expect([owner('mine'), owner('mine/a'), owner('mine/a/b')]).toEqual([0, 65534, 65534]);
    const { body } = await call('Stat', { path: join(root, 'mine/a') });
    expect(body.entry).toMatchObject({ owner: 'nobody', group: 'nogroup' });
  });
});

describe('Move', () => {
  it('renames, makes the parents of the destination and replaces files', async () => {
    writeFileSync(join(root, 'from'), 'new');
    mkdirSync(join(root, 'x'));
    writeFileSync(join(root, 'x/to'), 'old');
    const destination = join(root, 'x/to');
    const { body } = await call('Move', { source: join(root, 'from'), destination });
    expect(body.entry).toMatchObject({ path: destination, name: 'to' });
    expect(readFileSync(destination, 'utf8')).toBe('new');
    await call('Move', { source: join(root, 'x'), destination: join(root, 'p/q/r') });
    expect(readFileSync(join(root, 'p/q/r/to'), 'utf8')).toBe('new');
  });

  it('leaves nothing behind where there is nothing to move', async () => {
    const message = { source: join(root, 'gone'), destination: join(root, 'new/place') };
    expect((await call('Move', message)).body.code).toBe('not_found');
    expect(existsSync(join(root, 'new'))).toBe(false);
  });

  it('keeps everything across file systems', async () => {
    const other = mkdtempSync('/dev/shm/wrenn-filesystem-');
    try {
      expect(statSync(other).dev).not.toBe(statSync(root).dev);
      mkdirSync(join(root, 'tree/sub'), { recursive: true });
      writeFileSync(join(root, 'tree/sub/-run'), '#!/bin/sh\n');
      chmodSync(join(root, 'tree/sub/-run'), 0o750);
      symlinkSync('sub/-run', join(root, 'tree/link'));
      const destination = join(other, 'x/tree');
      expect((await call('Move', { source: join(root, 'tree'), destination })).status).toBe(200);
      expect(statSync(join(destination, 'sub/-run')).mode & 0o777).toBe(0o750);
      expect(readlinkSync(join(destination, 'link'))).toBe('sub/-run');
      expect(existsSync(join(root, 'tree'))).toBe(false);
    } finally {
      rmSync(other, { recursive: true, force: true });
    }
  });

  it('refuses a directory that is not empty as destination', async () => {
    for (const dir of ['a', 'b/full']) mkdirSync(join(root, dir), { recursive: true });
    const message = { source: join(root, 'a'), destination: join(root, 'b') };
    expect((await call('Move', message)).body.code).toBe('failed_precondition');
  });
});

it('a link that cannot be read hides nothing else', async () => {
  // Some of another program's are closed even to root, where the machine is a container.
  for (const path of ['/proc/1', '/proc/self']) {
    const { status, body } = await call('ListDir', { path });
    expect([path, status]).toEqual([path, 200]);
    const all = (body.entries ?? []) as { name: string }[];
    expect(all.map(({ name }) => name)).toEqual(expect.arrayContaining(['cwd', 'status']));
  }
});

describe('Remove', () => {
  it('takes trees away, links without their targets, and nothing without complaint', async () => {
    mkdirSync(join(root, 'keep'));
    mkdirSync(join(root, 'tree/sub'), { recursive: true });
    symlinkSync(join(root, 'keep'), join(root, 'tree/sub/link'));
    symlinkSync(join(root, 'keep'), join(root, 'link'));
    for (const path of ['tree', 'link', 'gone', 'keep/gone/deep']) {
      expect((await call('Remove', { path: join(root, path) })).status).toBe(200);
    }
    expect(existsSync(join(root, 'tree'))).toBe(false);
    expect(existsSync(join(root, 'link'))).toBe(false);
    expect(existsSync(join(root, 'keep'))).toBe(true);
  });

  it('takes the whole tree away, also while something else removes parts of it', async () => {
    const made = `import os, sys
for d in range(40):
    os.makedirs(f'{sys.argv[1]}/d{d}/e')
    for i in range(60): open(f'{sys.argv[1]}/d{d}/e/f{i}', 'w').close()`;
    for (let round = 0; round < 4; round++) {
      const tree = join(root, `tree${round}`);
      execFileSync('python3', ['-c', made, tree]);
      const parts = Array.from({ length: 20 }, (_, i) => join(tree, `d${2 * i}`));
      const other = promisify(execFile)('rm', ['-rf', ...parts]).catch(() => {});
      expect(await call('Remove', { path: tree })).toEqual({ status: 200, body: {} });
      expect(existsSync(tree)).toBe(false);
      await other;
    }
  }, 30_000);

  it('goes deeper than a path can be long, and takes names that are no text', async () => {
    execFileSync('python3', [
      '-c',
      `import os, sys
os.chdir(sys.argv[1]); os.makedirs(b'deep/\\xff\\xfe'); os.chdir('deep')
for i in range(1000): os.mkdir('0123456789'); os.chdir('0123456789')`,
      root,
    ]);
    expect((await call('ListDir', { path: root, depth: 100_000 })).status).toBe(200);
    expect((await call('Remove', { path: join(root, 'deep') })).status).toBe(200);
    expect(existsSync(join(root, 'deep'))).toBe(false);
  }, 30_000);
});

describe('the unmodified SDK', () => {
  it('drives the file system', async () => {
    const dir = join(root, 'sdk');
    expect(await sandbox.files.makeDir(dir)).toBe(true);
    expect(await sandbox.files.makeDir(dir)).toBe(false);
    await sandbox.files.write(join(dir, 'a.txt'), 'text');
    expect(await sandbox.files.exists(join(dir, 'a.txt'))).toBe(true);
    expect(await sandbox.files.exists(join(dir, 'b.txt'))).toBe(false);
    const moved = await sandbox.files.rename(join(dir, 'a.txt'), join(dir, 'b.txt'));
    expect(moved.path).toBe(join(dir, 'b.txt'));
    const [entry] = await sandbox.files.list(dir);
    expect(entry).toMatchObject({ name: 'b.txt', type: FileType.FILE, size: 4, permissions: '-rw-r--r--' });
    expect((await sandbox.files.getInfo(dir)).type).toBe(FileType.DIR);
    await sandbox.files.remove(dir);
    await expect(sandbox.files.getInfo(dir)).rejects.toThrow(FileNotFoundError);
  });
});
