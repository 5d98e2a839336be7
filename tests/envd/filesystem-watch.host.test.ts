import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { type FilesystemEvent, FilesystemEventType, type Sandbox } from 'e2b';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { frames, stream, unary } from './connect.ts';
import { type Envd, startEnvd } from './start-envd.ts';

let envd: Envd;
let sandbox: Sandbox;
let scratch: string;
let root: string;

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'wrenn-watch-'));
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

const call = (method: string, message: Record<string, unknown>) =>
  unary(envd.url, `filesystem.Filesystem/${method}`, message as never);

interface Polled {
  readonly name: string;
  readonly type: string;
  readonly entry?: Record<string, unknown>;
}

/** A polled watcher: what a fetch tells is all that happened before it, so no test needs to wait. */
async function watcher(options: Record<string, unknown> = {}) {
  const { body } = await call('CreateWatcher', { path: root, ...options });
  const watcherId = String(body.watcherId);
  const fetch = async () => {
    const answer = await call('GetWatcherEvents', { watcherId });
    return { status: answer.status, body: answer.body, events: (answer.body.events ?? []) as Polled[] };
  };
  return {
    fetch,
    told: async () =>
      (await fetch()).events.map(
        ({ name, type }) => `${type.replace('EVENT_TYPE_', '').toLowerCase()} ${name}`,
      ),
    remove: () => call('RemoveWatcher', { watcherId }),
  };
}

describe('events', () => {
  it('are those of fsnotify', async () => {
    const watch = await watcher();
    const at = (name: string) => join(root, name);
    writeFileSync(at('file'), 'x');
    expect(await watch.told()).toEqual(['create file', 'write file']);
    appendFileSync(at('file'), 'y');
    expect(await watch.told()).toEqual(['write file']);
    chmodSync(at('file'), 0o600);
    expect(await watch.told()).toEqual(['chmod file']);
    renameSync(at('file'), at('other'));
    expect(await watch.told()).toEqual(['rename file', 'create other']);
    unlinkSync(at('other'));
    expect(await watch.told()).toEqual(['remove other']);
    mkdirSync(at('dir'));
    writeFileSync(at('dir/below'), '');
    expect(await watch.told()).toEqual(['create dir']);
    rmSync(at('dir'), { recursive: true });
    expect(await watch.told()).toEqual(['remove dir']);
    chmodSync(root, 0o700);
    expect(await watch.told()).toEqual(['chmod .']);
    rmdirSync(root);
    expect(await watch.told()).toEqual(['remove .']);
    await watch.remove();
  });

  it('of a whole tree have their path below the root', async () => {
    mkdirSync(join(root, 'a/b'), { recursive: true });
    const watch = await watcher({ recursive: true });
    writeFileSync(join(root, 'a/b/file'), 'x');
    expect(await watch.told()).toEqual(['create a/b/file', 'write a/b/file']);
    rmSync(join(root, 'a'), { recursive: true });
    expect(await watch.told()).toEqual(['remove a/b/file', 'remove a/b', 'remove a']);
    await watch.remove();
  });

  it('tell each thing in new directories once, however quickly it is made', async () => {
    const watch = await watcher({ recursive: true });
    const made: string[] = [];
    for (let i = 0; i < 100; i++) {
      mkdirSync(join(root, `d${i}/x/y`), { recursive: true });
      writeFileSync(join(root, `d${i}/x/y/file`), 'x');
      made.push(`create d${i}`, `create d${i}/x`, `create d${i}/x/y`, `create d${i}/x/y/file`);
    }
    const told = [...(await watch.told()), ...(await watch.told())].filter((text) =>
      text.startsWith('create'),
    );
    expect(told.sort()).toEqual(made.sort());
    // What was told ahead is told again when it is made again.
    unlinkSync(join(root, 'd99/x/y/file'));
    writeFileSync(join(root, 'd99/x/y/file'), '');
    expect(await watch.told()).toEqual(['remove d99/x/y/file', 'create d99/x/y/file']);
    await watch.remove();
  });

  it('follow a directory that is renamed, and let go of one that leaves', async () => {
    mkdirSync(join(root, 'tree/a/b'), { recursive: true });
    const watch = await watcher({ path: join(root, 'tree'), recursive: true });
    renameSync(join(root, 'tree/a'), join(root, 'tree/z'));
    writeFileSync(join(root, 'tree/z/b/file'), '');
    expect(await watch.told()).toEqual(['rename a', 'create z', 'create z/b/file']);
    renameSync(join(root, 'tree/z'), join(root, 'outside'));
    expect(await watch.told()).toEqual(['rename z']);
    writeFileSync(join(root, 'outside/b/unseen'), '');
    expect(await watch.told()).toEqual([]);
    renameSync(join(root, 'outside'), join(root, 'tree/back'));
    expect(await watch.told()).toEqual(['create back']);
    writeFileSync(join(root, 'tree/back/b/seen'), '');
    expect(await watch.told()).toEqual(['create back/b/seen']);
    await watch.remove();
  });

  it.each([
    ['moved out, and made anew', ['mv tree/a out/a', 'mkdir -p tree/a/sub']],
    ['moved out, and another takes its name', ['mv tree/a out/a', 'mv tree/b tree/a']],
    ['swapped for one from outside', ['mv tree/a out/a', 'mv new tree/a']],
    ['moved out and back', ['mv tree/a out/a', 'mv out/a tree/a']],
    ['exchanged with another', ['exchange tree/a tree/b']],
    ['exchanged with one from outside', ['exchange tree/a new']],
    ['swapped by way of a third name', ['mv tree/a tree/t', 'mv tree/b tree/a', 'mv tree/t tree/b']],
    ['put in the place of an empty one', ['mv tree/a tree/empty', 'mv tree/empty tree/b/a']],
    ['removed, and made anew', ['rm tree/a', 'mkdir -p tree/a/sub']],
  ])('go on when a directory is %s', async (_, steps) => {
    for (const path of ['tree/a/sub', 'tree/b/other', 'tree/empty', 'new/sub', 'out']) {
      mkdirSync(join(root, path), { recursive: true });
    }
    const watch = await watcher({ path: join(root, 'tree'), recursive: true });
    try {
      // Nothing is read before all of it has happened.
      process.kill(envd.pid, 'SIGSTOP');
      try {
        execFileSync('python3', ['-c', STEPS, root, ...steps]);
      } finally {
        process.kill(envd.pid, 'SIGCONT');
      }
      await watch.told();
      // What is set right behind the events, with time to do so.
      await new Promise((resolve) => setTimeout(resolve, 200));
      await watch.told();
      const directories = readdirSync(join(root, 'tree'), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => relative(join(root, 'tree'), join(entry.parentPath, entry.name)));
      for (const directory of directories) {
        writeFileSync(join(root, 'tree', directory, 'late'), '');
        expect(await watch.told()).toEqual([`create ${directory}/late`]);
      }
      // And nothing else is watched: not what has left, and nothing twice.
      expect(inotifyWatches()).toBe(directories.length + 1);
    } finally {
      await watch.remove();
    }
  });

  it('do not follow links out of the tree or round in it', async () => {
    mkdirSync(join(root, 'tree'));
    mkdirSync(join(root, 'outside'));
    symlinkSync('../outside', join(root, 'tree/out'));
    symlinkSync('.', join(root, 'tree/self'));
    symlinkSync('tree', join(root, 'link'));
    const watch = await watcher({ path: join(root, 'link'), recursive: true });
    writeFileSync(join(root, 'outside/file'), '');
    writeFileSync(join(root, 'tree/file'), '');
    expect(await watch.told()).toEqual(['create file']);
    await watch.remove();
  });

  it('reach everyone who watches the same directory, and end for one alone', async () => {
    const [first, second] = [await watcher(), await watcher({ recursive: true })];
    writeFileSync(join(root, 'one'), '');
    expect([await first.told(), await second.told()]).toEqual([['create one'], ['create one']]);
    await first.remove();
    writeFileSync(join(root, 'two'), '');
    expect(await second.told()).toEqual(['create two']);
    expect((await first.fetch()).status).toBe(404);
    await second.remove();
  });

  it('carry the entry where asked, but never for what has gone', async () => {
    const watch = await watcher({ includeEntry: true });
    writeFileSync(join(root, 'file'), 'hello');
    for (const { name, entry } of (await watch.fetch()).events) {
      expect(entry).toMatchObject({ name, path: join(root, 'file'), type: 'FILE_TYPE_FILE' });
    }
    unlinkSync(join(root, 'file'));
    writeFileSync(join(root, 'file'), 'another');
    const [removed] = (await watch.fetch()).events;
    expect(removed).toEqual({ name: 'file', type: 'EVENT_TYPE_REMOVE' });
    await watch.remove();
  });
});

describe('limits', () => {
  it('refuse what cannot be watched', async () => {
    writeFileSync(join(root, 'file'), '');
    const code = async (path: string) => (await call('CreateWatcher', { path })).body.code;
    expect(await code(join(root, 'gone'))).toBe('not_found');
    expect(await code(join(root, 'file'))).toBe('invalid_argument');
    expect((await call('GetWatcherEvents', { watcherId: 'wnone' })).body.code).toBe('not_found');
    expect((await call('RemoveWatcher', { watcherId: 'wnone' })).body.code).toBe('not_found');
  });

  it('tell a poller who comes too late that changes were lost', async () => {
    const watch = await watcher();
    execFileSync('python3', [
      '-c',
      `import sys\nfor i in range(12000): open(sys.argv[1] + '/%d' % i, 'w').close()`,
      root,
    ]);
    expect(await watch.fetch()).toMatchObject({ status: 429, body: { code: 'resource_exhausted' } });
    await watch.remove();
    const next = await watcher();
    writeFileSync(join(root, 'more'), '');
    expect(await next.told()).toEqual(['create more']);
    await next.remove();
  }, 30_000);

  it('hold for the number of watchers, which cost neither threads nor descriptors', async () => {
    const threads = () => readdirSync(`/proc/${envd.pid}/task`).length;
    const before = { files: envd.openFiles(), threads: threads() };
    const watches = await Promise.all(Array.from({ length: 256 }, () => watcher({ recursive: true })));
    const refused = await call('CreateWatcher', { path: root });
    expect(refused.body.code).toBe('resource_exhausted');
    expect(envd.openFiles()).toBeLessThan(before.files + 8);
    // Its runtime begins some when it likes.
    expect(threads()).toBeLessThan(before.threads + 16);
    writeFileSync(join(root, 'file'), '');
    for (const watch of watches) expect(await watch.told()).toEqual(['create file']);
    await Promise.all(watches.map((watch) => watch.remove()));
    expect((await (await watcher()).remove()).status).toBe(200);
  }, 30_000);
});

describe('WatchDir', () => {
  it('begins with start, keeps the stream alive, and frees the watch when the caller leaves', async () => {
    const stop = new AbortController();
    const response = await stream(
      envd.url,
      'filesystem.Filesystem/WatchDir',
      { path: root },
      { headers: { 'Keepalive-Ping-Interval': '1' }, signal: stop.signal },
    );
    const kinds: string[] = [];
    const reading = (async () => {
      for await (const { payload } of frames(response.body)) {
        const [kind = ''] = Object.keys(JSON.parse(new TextDecoder().decode(payload)));
        // Of keep-alives there are more where the machine is slow.
        if (kinds.at(-1) === kind) continue;
        kinds.push(kind);
        if (kinds.length === 2) writeFileSync(join(root, 'file'), '');
        if (kinds.length === 3) stop.abort();
      }
    })();
    await expect(reading).rejects.toThrow();
    expect(kinds).toEqual(['start', 'keepalive', 'filesystem']);
    await expect.poll(inotifyWatches).toBe(0);
  });

  it('ends with an error frame where it cannot watch', async () => {
    const response = await stream(envd.url, 'filesystem.Filesystem/WatchDir', { path: join(root, 'gone') });
    for await (const { flags, payload } of frames(response.body)) {
      expect(flags).toBe(2);
      expect(JSON.parse(new TextDecoder().decode(payload)).error.code).toBe('not_found');
    }
  });

  it('serves the unmodified SDK', async () => {
    const events: FilesystemEvent[] = [];
    const handle = await sandbox.files.watchDir(root, (event) => void events.push(event), {
      recursive: true,
      includeEntry: true,
    });
    await sandbox.files.write(join(root, 'new/file.txt'), 'text');
    await expect
      .poll(() => events)
      .toContainEqual(expect.objectContaining({ name: 'new/file.txt', type: FilesystemEventType.WRITE }));
    expect(events[0]).toMatchObject({
      name: 'new',
      type: FilesystemEventType.CREATE,
      entry: { name: 'new' },
    });
    await handle.stop();
  });

  it('ends at its deadline', async () => {
    const onExit = vi.fn();
    await sandbox.files.watchDir(root, () => {}, { timeoutMs: 3000, onExit });
    await vi.waitFor(() => expect(onExit).toHaveBeenCalledWith(expect.any(Error)), { timeout: 15_000 });
    await expect.poll(inotifyWatches).toBe(0);
  });
});

const STEPS = `
import ctypes, os, shutil, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
for step in sys.argv[2:]:
    verb, *paths = step.split()
    if verb == 'mv': os.rename(*paths)
    if verb == 'rm': shutil.rmtree(paths[0])
    if verb == 'mkdir': os.makedirs(paths[1])
    if verb == 'exchange':
        source, destination = (path.encode() for path in paths)
        if libc.renameat2(-100, source, -100, destination, 2) != 0: raise OSError(ctypes.get_errno())
`;

/** How many watches envd holds, as the kernel tells it. */
function inotifyWatches(): number {
  // Once each: Bun reads by a descriptor of its own, which leads to the same ones.
  const script = `cat /proc/${envd.pid}/fdinfo/* 2>/dev/null | grep '^inotify' | sort -u | wc -l`;
  return Number(execFileSync('sh', ['-c', script], { encoding: 'utf8' }));
}
