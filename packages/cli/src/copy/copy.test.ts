/** Both directions against a guest in memory, which tells of its files whatever it likes. */
import { execFileSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, posix } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient, createRouterTransport } from '@connectrpc/connect';
import { WrennError } from '@wrenn/protocol';
import { type FileEntry, FileEntry_Type, FileEntrySchema, GuestService } from '@wrenn/protocol/agent';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Guest } from './guest-files.ts';
import { createSkips, type Skips } from './skips.ts';
import { copyToGuest } from './to-guest.ts';
import { copyToHost } from './to-host.ts';

const { FILE, DIRECTORY, SYMLINK, UNSPECIFIED } = FileEntry_Type;

let dir: string;
let umask: number;
let skipped: [path: string, reason: string][];
const skips: Skips = { add: (path, reason) => skipped.push([path, reason]), end: () => {} };

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-copy-'));
  umask = process.umask(0o022);
  skipped = [];
});

afterEach(() => {
  process.umask(umask);
  rmSync(dir, { recursive: true });
});

type Told = Partial<Pick<FileEntry, 'type' | 'mode' | 'symlinkTarget'>> & { readonly content?: string };

interface FakeGuest extends Guest {
  /** By their paths. */
  readonly files: Map<string, Told>;
  onRead: () => void;
  /** In place of what the files say. */
  onList: ((path: string) => Partial<Pick<FileEntry, 'name' | 'path' | 'type'>>[]) | undefined;
}

function fakeGuest(files: Readonly<Record<string, Told>> = {}): FakeGuest {
  const tree = new Map(Object.entries(files));
  const entryAt = (path: string): FileEntry => {
    const clean = path === '/' ? path : path.replace(/\/$/, '');
    const told = tree.get(clean);
    if (told === undefined) throw new ConnectError(`no ${path}`, Code.NotFound);
    const { content: _, ...rest } = told;
    return create(FileEntrySchema, { mode: 0o644, ...rest, name: posix.basename(clean), path: clean });
  };
  const transport = createRouterTransport((router) => {
    router.service(GuestService, {
      statFile: ({ path }) => ({ entry: entryAt(path) }),
      listFiles: ({ path }) => ({
        entries:
          guest.onList?.(path) ??
          [...tree.keys()].filter((each) => each !== path && posix.dirname(each) === path).map(entryAt),
      }),
      readFile: async function* ({ path }) {
        entryAt(path);
        guest.onRead();
        yield { data: Buffer.from(tree.get(path)?.content ?? '') };
      },
      makeDirectory: ({ path }) => {
        if (tree.has(path)) throw new ConnectError('there', Code.AlreadyExists);
        tree.set(path, { type: DIRECTORY });
        return { entry: entryAt(path) };
      },
      writeFile: async (requests) => {
        let path = '';
        let content = '';
        for await (const { message } of requests) {
          if (message.case === 'open') path = message.value.path;
          else if (message.case === 'data') content += Buffer.from(message.value).toString();
        }
        tree.set(path, { type: FILE, content });
        return { entry: entryAt(path) };
      },
    });
  });
  const guest: FakeGuest = {
    client: { guest: createClient(GuestService, transport) },
    sandboxId: 'a',
    user: '',
    files: tree,
    onRead: () => {},
    onList: undefined,
  };
  return guest;
}

async function failure(work: Promise<unknown>): Promise<WrennError> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error instanceof WrennError) return error;
  throw new Error('it did not fail as Wrenn does', { cause: error });
}

const modeOf = (path: string) => statSync(path).mode & 0o777;
const read = (path: string) => readFileSync(path, 'utf8');

describe('from the guest', () => {
  it('gives what is new its mode as far as the umask lets it', async () => {
    const guest = fakeGuest({
      '/d': { type: DIRECTORY, mode: 0o777 },
      '/d/wide': { type: FILE, mode: 0o4777 },
      '/d/own': { type: FILE, mode: 0o600 },
      '/d/shut': { type: DIRECTORY, mode: 0o500 },
      '/d/shut/in': { type: FILE, mode: 0o444, content: 'in' },
    });
    await copyToHost(guest, '/d', join(dir, 'to'), skips);
    const modes = ['', 'wide', 'own', 'shut', 'shut/in'].map((path) => modeOf(join(dir, 'to', path)));
    expect(modes).toEqual([0o755, 0o755, 0o600, 0o700, 0o444]);
    expect(statSync(join(dir, 'to/wide')).mode & 0o7000).toBe(0);
    expect(read(join(dir, 'to/shut/in'))).toBe('in');
  });

  it('lets nobody read what is private while it comes', async () => {
    const guest = fakeGuest({ '/own': { type: FILE, mode: 0o600, content: 'secret' } });
    let mode: number | undefined;
    guest.onRead = () => {
      mode = modeOf(join(dir, 'own'));
    };
    await copyToHost(guest, '/own', join(dir, 'own'), skips);
    expect(mode).toBe(0o600);
  });

  it('leaves the mode of what is there, such as /dev/null, and follows what is named', async () => {
    const guest = fakeGuest({ '/f': { type: FILE, mode: 0o777, content: 'new' } });
    writeFileSync(join(dir, 'there'), 'a longer one', { mode: 0o640 });
    symlinkSync('there', join(dir, 'link'));
    await copyToHost(guest, '/f', join(dir, 'link'), skips);
    expect([read(join(dir, 'there')), modeOf(join(dir, 'there'))]).toEqual(['new', 0o640]);
    await copyToHost(guest, '/f', '/dev/null', skips);
  });

  it('leaves links and special files out, says so, and goes on', async () => {
    const guest = fakeGuest({
      '/d': { type: DIRECTORY, symlinkTarget: '/elsewhere' },
      '/d/all': { type: DIRECTORY, symlinkTarget: '/' },
      '/d/dangling': { type: SYMLINK, symlinkTarget: 'nowhere' },
      '/d/file': { type: FILE, symlinkTarget: '/etc/passwd' },
      '/d/pipe': { type: UNSPECIFIED },
      '/d/z': { type: FILE, content: 'z' },
    });
    await copyToHost(guest, '/d', join(dir, 'to'), skips);
    expect(readdirSync(join(dir, 'to'))).toEqual(['z']);
    expect(skipped).toEqual([
      ['/d/all', 'a symbolic link'],
      ['/d/dangling', 'a symbolic link'],
      ['/d/file', 'a symbolic link'],
      ['/d/pipe', 'neither a file nor a directory'],
    ]);
  });

  it('writes through no link below the place that was named, nor into a FIFO', async () => {
    const guest = fakeGuest({
      '/d': { type: DIRECTORY },
      '/d/dir': { type: DIRECTORY },
      '/d/dir/keys': { type: FILE, content: 'evil' },
      '/d/fifo': { type: FILE, content: 'evil' },
      '/d/file': { type: FILE, content: 'evil' },
      '/d/z': { type: FILE, content: 'z' },
    });
    const [outside, to] = [join(dir, 'outside'), join(dir, 'to')];
    for (const path of [outside, to, join(to, 'd')]) mkdirSync(path);
    writeFileSync(join(outside, 'file'), 'untouched');
    symlinkSync(outside, join(to, 'd/dir'));
    symlinkSync(join(outside, 'file'), join(to, 'd/file'));
    execFileSync('mkfifo', [join(to, 'd/fifo')]);
    expect(await failure(copyToHost(guest, '/d', to, skips))).toMatchObject({ code: 'invalid_path' });
    expect(skipped.map(([path]) => path)).toEqual(['dir', 'fifo', 'file'].map((name) => join(to, 'd', name)));
    expect(readdirSync(outside)).toEqual(['file']);
    expect(read(join(outside, 'file'))).toBe('untouched');
    expect(read(join(to, 'd/z'))).toBe('z');
  });

  it('does not write through a link that has the name of what is copied', async () => {
    const guest = fakeGuest({ '/report': { type: FILE, content: 'evil' } });
    mkdirSync(join(dir, 'to'));
    writeFileSync(join(dir, 'outside'), 'untouched');
    symlinkSync('../outside', join(dir, 'to/report'));
    expect(await failure(copyToHost(guest, '/report', join(dir, 'to'), skips))).toMatchObject({
      code: 'invalid_path',
    });
    expect(read(join(dir, 'outside'))).toBe('untouched');
  });

  it.each(['..', '../x', 'a/b', '', '.', 'a\0b', 'x'.repeat(256)])('refuses the name %j', async (name) => {
    const guest = fakeGuest({ '/d': { type: DIRECTORY } });
    guest.onList = () => [{ name, path: `/d/${name}`, type: FILE }];
    expect(await failure(copyToHost(guest, '/d', join(dir, 'to'), skips))).toMatchObject({
      code: 'invalid_path',
    });
    expect(readdirSync(dir)).toEqual(['to']);
    expect(readdirSync(join(dir, 'to'))).toEqual([]);
  });

  it('comes to an end with a guest that tells of ever more directories', async () => {
    const guest = fakeGuest({ '/d': { type: DIRECTORY } });
    guest.onList = () => [{ name: 'd', type: DIRECTORY }];
    expect(await failure(copyToHost(guest, '/d', join(dir, 'to'), skips))).toMatchObject({
      code: 'invalid_path',
      message: expect.stringContaining('128 levels'),
    });
  });

  it('comes to an end with a guest that tells of ever more files', async () => {
    const guest = fakeGuest({ '/d': { type: DIRECTORY } });
    guest.onList = () => ['a', 'b'].map((name) => ({ name, type: DIRECTORY }));
    const limits = { maxLevels: 128, maxEntries: 9 };
    expect(await failure(copyToHost(guest, '/d', join(dir, 'to'), skips, limits))).toMatchObject({
      code: 'invalid_path',
      message: expect.stringContaining('more than 9 files'),
    });
  });

  it('puts what has no name of its own into the directory itself', async () => {
    const guest = fakeGuest({ '..': { type: DIRECTORY }, '../f': { type: FILE, content: 'f' } });
    await copyToHost(guest, '..', `${join(dir, 'out')}/`, skips);
    expect([readdirSync(dir), readdirSync(join(dir, 'out'))]).toEqual([['out'], ['f']]);
  });

  it('goes into a directory that is there, and else under the name that was given', async () => {
    const guest = fakeGuest({ '/d': { type: DIRECTORY }, '/d/f': { type: FILE, content: 'f' } });
    await copyToHost(guest, '/d', join(dir, 'new/deep'), skips);
    await copyToHost(guest, '/d', join(dir, 'new'), skips);
    await copyToHost(guest, '/d/f', join(dir, 'new/g'), skips);
    expect(readdirSync(join(dir, 'new')).sort()).toEqual(['d', 'deep', 'g']);
    expect([read(join(dir, 'new/d/f')), read(join(dir, 'new/deep/f'))]).toEqual(['f', 'f']);
  });

  it('says where it cannot write', async () => {
    const guest = fakeGuest({ '/f': { type: FILE } });
    expect(await failure(copyToHost(guest, '/f', join(dir, 'no/such/f'), skips))).toMatchObject({
      code: 'invalid_path',
      message: expect.stringContaining('no/such/f'),
    });
  });
});

describe('to the guest', () => {
  it('sends no file that a link below leads to, no link and no special file, and goes on', async () => {
    const guest = fakeGuest({ '/home': { type: DIRECTORY } });
    const tree = join(dir, 'tree');
    mkdirSync(join(tree, 'sub'), { recursive: true });
    writeFileSync(join(dir, 'secret'), 'secret');
    symlinkSync('../secret', join(tree, 'data'));
    symlinkSync('nowhere', join(tree, '.#lock'));
    symlinkSync('.', join(tree, 'self'));
    symlinkSync('/', join(tree, 'sub/root'));
    execFileSync('mkfifo', [join(tree, 'pipe')]);
    writeFileSync(join(tree, 'z'), 'z');
    await copyToGuest(guest, tree, '/home', skips);
    expect([...guest.files.keys()].sort()).toEqual(['/home', '/home/tree', '/home/tree/sub', '/home/tree/z']);
    expect(skipped.sort()).toEqual([
      [join(tree, '.#lock'), 'a symbolic link'],
      [join(tree, 'data'), 'a symbolic link'],
      [join(tree, 'pipe'), 'neither a file nor a directory'],
      [join(tree, 'self'), 'a symbolic link'],
      [join(tree, 'sub/root'), 'a symbolic link'],
    ]);
  });

  it('follows what is named, and refuses it where it is no file', async () => {
    const guest = fakeGuest({ '/home': { type: DIRECTORY } });
    mkdirSync(join(dir, 'real'));
    writeFileSync(join(dir, 'real/f'), 'f');
    symlinkSync('real', join(dir, 'link'));
    symlinkSync('real/f', join(dir, 'file'));
    await copyToGuest(guest, join(dir, 'link'), '/home', skips);
    await copyToGuest(guest, join(dir, 'file'), '/home/other', skips);
    expect(guest.files.get('/home/link/f')?.content).toBe('f');
    expect(guest.files.get('/home/other')?.content).toBe('f');
    execFileSync('mkfifo', [join(dir, 'pipe')]);
    expect(await failure(copyToGuest(guest, join(dir, 'pipe'), '/home/pipe', skips))).toMatchObject({
      code: 'invalid_path',
    });
    expect(await failure(copyToGuest(guest, join(dir, 'gone'), '/home/gone', skips))).toMatchObject({
      code: 'file_not_found',
    });
    expect(skipped).toEqual([]);
  });

  it('puts what is in `..` into the directory itself', async () => {
    const guest = fakeGuest({ '/home': { type: DIRECTORY }, '/home/user': { type: DIRECTORY } });
    mkdirSync(join(dir, 'sub'));
    await copyToGuest(guest, `${dir}/sub/..`, '/home/user/', skips);
    expect([...guest.files.keys()]).toContain('/home/user/sub');
    expect([...guest.files.keys()]).not.toContain('/home/sub');
  });
});

describe('what is left out', () => {
  it('has a line each as long as they can be read, and a count', () => {
    const lines: string[] = [];
    const told = createSkips((line) => lines.push(line), false);
    for (let n = 0; n < 1000; n++) told.add(`a\n${n}`, 'a symbolic link');
    told.end();
    expect(lines).toHaveLength(21);
    expect(lines[0]).toBe('wrenn: a\\u{a}0 was not copied: a symbolic link');
    expect(lines[20]).toBe('wrenn: 980 more were not copied');
  });

  it('is JSON for scripts, and nothing where there is none', () => {
    const lines: string[] = [];
    const told = createSkips((line) => lines.push(line), true);
    told.end();
    told.add('a', 'a symbolic link');
    told.end();
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      { skipped: { path: 'a', reason: 'a symbolic link' } },
    ]);
  });
});
