import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createSnapshots, type Snapshot, type SnapshotDraft, type Snapshots } from './snapshots.ts';

const MIB = 1024 * 1024;
const A = 'a'.repeat(20);
const B = 'b'.repeat(20);
const C = 'c'.repeat(20);
const ABOUT: Parameters<SnapshotDraft['commit']>[0] = {
  kind: 'user',
  createdAtMs: 1000,
  sandboxId: 'z'.repeat(20),
  template: {
    name: 'minimal',
    buildId: 'build',
    rootfsPath: '/rootfs',
    guestImagePath: '/guest',
    kernelPath: '/kernel',
    initrdPath: '/initrd',
  },
  vmm: { driver: 'qemu', version: '7.2', accelerator: 'tcg' },
  vcpus: 1,
  memoryMib: 2,
  diskMib: 1,
  accessToken: 'token',
  envs: { A: 'b' },
};

let dir: string;
let snapshots: Snapshots;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wr-snapshots-'));
  snapshots = createSnapshots(dir);
  await load();
});
afterEach(() => rm(dir, { recursive: true }));

/** As an agent that comes after this one would find them; returns what it was told of, by id. */
async function load(): Promise<Record<string, unknown>> {
  snapshots = createSnapshots(dir);
  const problems: Record<string, unknown> = {};
  await snapshots.load((id, error) => {
    problems[id] = error;
  });
  return problems;
}

async function fill(draft: SnapshotDraft): Promise<void> {
  await writeFile(draft.statePath, 'state');
  await writeFile(draft.memoryPath, 'memory');
  await truncate(draft.memoryPath, 2 * MIB);
  await writeFile(draft.layerPath, 'layer');
  await truncate(draft.layerPath, MIB);
}

async function make(id: string, about: Partial<typeof ABOUT> = {}): Promise<Snapshot> {
  const draft = await snapshots.draft(id);
  await fill(draft);
  const snapshot = await draft.commit({ ...ABOUT, ...about });
  await draft.discard();
  return snapshot;
}
const ids = (): string[] => snapshots.list().map(({ id }) => id);

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return error instanceof WrennError ? error.code : String(error);
  }
  return 'no error';
}

describe('a draft', () => {
  it('is in no list until it is committed, and then is whole and for good', async () => {
    const draft = await snapshots.draft(A);
    await fill(draft);
    expect(ids()).toEqual([]);
    expect(codeOf(() => snapshots.get(A))).toBe('snapshot_not_found');
    const snapshot = await draft.commit(ABOUT);
    // What a caller does whatever happened.
    await draft.discard();
    expect(snapshots.get(A)).toBe(snapshot);
    expect(snapshot).toMatchObject({ ...ABOUT, version: 2, id: A, statePath: join(dir, A, 'state') });
    expect(await readdir(dir)).toEqual([A]);
    expect((await readdir(join(dir, A))).sort()).toEqual(['layer.ext4', 'manifest.json', 'memory', 'state']);

    expect(await load()).toEqual({});
    expect(snapshots.get(A)).toEqual(snapshot);
    expect(await readFile(snapshot.statePath, 'utf8')).toBe('state');
  });

  it('is root’s alone, as is its manifest, which has the token of the guest', async () => {
    await make(A);
    expect((await stat(join(dir, A))).mode & 0o777).toBe(0o700);
    expect((await stat(join(dir, A, 'manifest.json'))).mode & 0o777).toBe(0o600);
  });

  it('is gone when it is discarded, however often', async () => {
    const draft = await snapshots.draft(A);
    await fill(draft);
    await draft.discard();
    await draft.discard();
    expect(await readdir(dir)).toEqual([]);
    expect(ids()).toEqual([]);
    // Its name is free again.
    await make(A);
    expect(ids()).toEqual([A]);
  });

  it.each(['statePath', 'memoryPath', 'layerPath'] as const)(
    'is not committed without its %s, and can still be discarded',
    async (missing) => {
      const draft = await snapshots.draft(A);
      await fill(draft);
      await rm(draft[missing]);
      await expect(draft.commit(ABOUT)).rejects.toMatchObject({ code: 'ENOENT' });
      expect(ids()).toEqual([]);
      await draft.discard();
      expect(await readdir(dir)).toEqual([]);
    },
  );

  it('is one for each id', async () => {
    const draft = await snapshots.draft(A);
    await expect(snapshots.draft(A)).rejects.toMatchObject({ code: 'EEXIST' });
    await draft.discard();
  });
});

describe('the list', () => {
  it('has the newest first, before and after a restart, and not what was removed', async () => {
    await make(A, { createdAtMs: 1 });
    await make(B, { createdAtMs: 3 });
    await make(C, { createdAtMs: 2, kind: 'fork' });
    expect(ids()).toEqual([B, C, A]);
    await load();
    expect(ids()).toEqual([B, C, A]);
    await snapshots.remove(C);
    await snapshots.remove(C);
    expect(ids()).toEqual([B, A]);
    expect((await readdir(dir)).sort()).toEqual([A, B]);
    expect(await load()).toEqual({});
    expect(ids()).toEqual([B, A]);
  });
});

describe('what an agent that was killed has left', () => {
  it('is removed where it was not finished, with or without a manifest', async () => {
    await make(A);
    const torn = await snapshots.draft(B);
    await writeFile(torn.memoryPath, 'half');
    // Killed right before the rename.
    const { mtimeMs } = await stat(join(dir, A));
    const nearly = await snapshots.draft(C);
    await fill(nearly);
    await writeFile(join(dir, `.new-${C}`, 'manifest.json'), await readFile(join(dir, A, 'manifest.json')));
    expect(await load()).toEqual({});
    expect(await readdir(dir)).toEqual([A]);
    expect(ids()).toEqual([A]);
    expect((await stat(join(dir, A))).mtimeMs).toBe(mtimeMs);
  });

  it('is removed where it was being removed', async () => {
    await make(A);
    // What a removal does first, and some of what it does then.
    await rename(join(dir, A), join(dir, `.new-${A}`));
    await rm(join(dir, `.new-${A}`, 'memory'));
    expect(await load()).toEqual({});
    expect(await readdir(dir)).toEqual([]);
    expect(ids()).toEqual([]);
  });
});

describe('a snapshot that is not as its manifest says', () => {
  const file = (name: string): string => join(dir, A, name);
  const change = async (edit: (manifest: Record<string, unknown>) => void): Promise<void> => {
    const manifest: unknown = JSON.parse(await readFile(file('manifest.json'), 'utf8'));
    if (typeof manifest !== 'object' || manifest === null) throw new Error('no manifest');
    const changed = { ...manifest };
    edit(changed);
    await writeFile(file('manifest.json'), JSON.stringify(changed));
  };

  const damages: Record<string, { damage(): Promise<unknown>; told: Record<string, unknown> }> = {
    'no manifest': { damage: () => rm(file('manifest.json')), told: { code: 'ENOENT' } },
    'an empty manifest': {
      damage: () => writeFile(file('manifest.json'), ''),
      told: { message: /not JSON/ },
    },
    'half a manifest': { damage: () => truncate(file('manifest.json'), 100), told: { message: /not JSON/ } },
    'a huge manifest': {
      damage: () => truncate(file('manifest.json'), 5 * MIB),
      told: { message: /has 5242880 bytes/ },
    },
    'another version': {
      damage: () => change((manifest) => Object.assign(manifest, { version: 3 })),
      told: {},
    },
    'a field more': { damage: () => change((manifest) => Object.assign(manifest, { more: 1 })), told: {} },
    'a field less': {
      damage: () =>
        change((manifest) => {
          delete manifest.memorySha256;
        }),
      told: {},
    },
    'the id of another': {
      damage: () => change((manifest) => Object.assign(manifest, { id: B })),
      told: { message: new RegExp(`that of ${B}`) },
    },
    'no memory': { damage: () => rm(file('memory')), told: { code: 'ENOENT' } },
    'memory cut off': { damage: () => truncate(file('memory'), MIB), told: { message: /memory/ } },
    'memory that goes on': {
      damage: () => truncate(file('memory'), 2 * MIB + 1),
      told: { message: /memory/ },
    },
    'no disk': { damage: () => rm(file('layer.ext4')), told: { code: 'ENOENT' } },
    'a disk cut off': { damage: () => truncate(file('layer.ext4'), 1), told: { message: /disk/ } },
    'no state': { damage: () => rm(file('state')), told: { code: 'ENOENT' } },
    'a state cut off': { damage: () => truncate(file('state'), 3), told: { message: /state/ } },
    'a state with one byte changed': {
      damage: () => writeFile(file('state'), 'stbte'),
      told: { message: /state/ },
    },
  };

  it.each(Object.keys(damages))('is told and left alone, beside the others: %s', async (name) => {
    await make(A);
    await make(B);
    const { damage, told } = damages[name] ?? {};
    await damage?.();
    const left = await readdir(join(dir, A));
    const problems = await load();
    expect(Object.keys(problems)).toEqual([A]);
    const [problem] = Object.values(problems);
    expect(problem).toMatchObject({ code: told?.code ?? 'snapshot_corrupt' });
    expect(String(problem)).toMatch(told?.message instanceof RegExp ? told.message : /./);
    expect(ids()).toEqual([B]);
    expect(codeOf(() => snapshots.get(A))).toBe('snapshot_not_found');
    expect(await readdir(join(dir, A))).toEqual(left);
  });

  it('is no snapshot at all: what else lies there is told too', async () => {
    await writeFile(join(dir, 'notes.txt'), 'hello');
    await mkdir(join(dir, 'lost+found'));
    expect(Object.keys(await load()).sort()).toEqual(['lost+found', 'notes.txt']);
    expect((await readdir(dir)).sort()).toEqual(['lost+found', 'notes.txt']);
  });
});
