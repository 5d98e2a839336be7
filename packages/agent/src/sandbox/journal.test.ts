import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseConfig } from '../config/load.ts';
import { createJournal, type Journal } from './journal.ts';
import { type JournalRecord, parseRecord } from './journal-record.ts';

const id = 'abcdefghij0123456789';
const record: JournalRecord = {
  version: 1,
  id,
  bootId: 'b',
  state: 'running',
  template: 'base',
  buildId: 'x',
  vcpus: 1,
  memoryMib: 512,
  diskMib: 1024,
  onTimeout: 'destroy',
  egress: { allowInternetAccess: true, allowOut: [], denyOut: [] },
  rateLimits: { diskBytesPerSecond: 2_000_000 },
  envs: { A: 'b' },
  metadata: {},
  createdAtMs: 1,
  endsAtMs: null,
  slotIndex: 0,
  uid: 1_900_000_000,
  accessToken: 'secret',
  images: null,
  snapshotId: null,
  hibernations: 0,
  hibernation: null,
  vmm: null,
  purpose: 'user',
  handle: {
    driver: 'qemu',
    pid: 5,
    startTime: '77',
    wrappers: [{ pid: 4, startTime: '76' }],
    runDir: '/run',
  },
  phases: [{ name: 'boot', durationMs: 1.5 }],
};

let dir: string;
let journal: Journal;
const uid = process.getuid?.() ?? 0;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wrenn-journal-'));
  await mkdir(join(dir, 'sandboxes'));
  journal = createJournal(join(dir, 'sandboxes'), join(dir, 'corrupt'));
});
afterEach(async () => {
  await rm(dir, { recursive: true });
});

describe('a journal', () => {
  it('hashes a hibernation, and ends that when nobody wants it any more', async () => {
    await journal.makeDirectories(id, uid);
    const { memoryPath, statePath } = await journal.makeHibernation(id, 1);
    await writeFile(memoryPath, Buffer.alloc(4 * 1024 * 1024, 1));
    await writeFile(statePath, 'state');
    const hashes = await journal.sealHibernation(id, 1, new AbortController().signal);
    expect(hashes.memorySha256).toMatch(/^[0-9a-f]{64}$/);
    expect(hashes.stateSha256).not.toBe(hashes.memorySha256);
    const reason = new Error('destroyed meanwhile');
    await expect(journal.sealHibernation(id, 1, AbortSignal.abort(reason))).rejects.toBe(reason);
  });

  it('has a record that was prepared from when that is committed, and nothing of one that never was', async () => {
    await journal.makeDirectories(id, uid);
    await journal.write({ ...record, state: 'creating' });
    const commit = await journal.prepare({ ...record, state: 'running' });
    const { records } = await createJournal(join(dir, 'sandboxes'), join(dir, 'corrupt')).readAll();
    expect(records).toMatchObject([{ state: 'creating' }]);
    // That was another agent's start: what was under way is gone.
    await expect(commit()).rejects.toMatchObject({ code: 'ENOENT' });
    await (await journal.prepare({ ...record, state: 'running' }))();
    expect(await journal.readAll()).toMatchObject({ records: [{ state: 'running' }], corrupt: [] });
    expect(await readdir(join(dir, 'sandboxes', id))).toEqual(['run', 'sandbox.json']);
  });

  it('comes back as it was written, and only its owner may read it', async () => {
    await journal.makeDirectories(id, uid);
    await journal.write(record);
    await journal.write({ ...record, state: 'paused' });
    expect(await journal.readAll()).toEqual({
      records: [{ ...record, state: 'paused' }],
      unknownKeys: new Map(),
      corrupt: [],
    });
    expect((await stat(join(dir, 'sandboxes', id, 'sandbox.json'))).mode & 0o777).toBe(0o600);
    expect((await stat(join(dir, 'sandboxes', id))).mode & 0o077).toBe(0);
    expect(await readdir(join(dir, 'sandboxes', id))).toEqual(['run', 'sandbox.json']);
  });

  it('is what it was when the agent was killed while it wrote, and nothing lies beside it', async () => {
    await journal.makeDirectories(id, uid);
    await journal.write(record);
    await writeFile(join(dir, 'sandboxes', id, 'sandbox.json.0af3.tmp'), '{"half":');
    expect(await journal.readAll()).toEqual({ records: [record], unknownKeys: new Map(), corrupt: [] });
    expect((await readdir(join(dir, 'sandboxes', id))).sort()).toEqual(['run', 'sandbox.json']);
  });

  it('is removed with everything, again and again', async () => {
    await journal.makeDirectories(id, uid);
    await journal.write(record);
    await writeFile(journal.files(id).layer, 'x');
    await journal.remove(id);
    await journal.remove(id);
    expect(await readdir(join(dir, 'sandboxes'))).toEqual([]);
  });

  it('is set aside when it cannot be read, with what the files tell', async () => {
    await journal.makeDirectories(id, uid);
    await writeFile(join(dir, 'sandboxes', id, 'sandbox.json'), '{"half":');
    await mkdir(join(dir, 'sandboxes', 'not-a-sandbox'));
    const { records, corrupt } = await journal.readAll();
    expect(records).toEqual([]);
    expect(corrupt).toMatchObject([{ id, uid: undefined }]);
    await journal.setAside(id);
    await journal.remove(id);
    expect(await readFile(join(dir, 'corrupt', `${id}.json`), 'utf8')).toBe('{"half":');
    expect((await readdir(join(dir, 'sandboxes'))).sort()).toEqual(['not-a-sandbox']);
  });

  it('is corrupt without its file, or when it is too large', async () => {
    await journal.makeDirectories(id, uid);
    expect((await journal.readAll()).corrupt).toMatchObject([{ id, uid: undefined }]);
    await writeFile(join(dir, 'sandboxes', id, 'sandbox.json'), Buffer.alloc(17 * 1024 * 1024, ' '));
    expect((await journal.readAll()).corrupt).toMatchObject([{ id }]);
  });

  it('can be read, however large a sandbox may be made to have it', async () => {
    const most = '\u0001'.repeat(1024 * 1024 - 1);
    const { limits } = parseConfig({
      limits: { maxEnvBytes: most.length + 1, maxMetadataBytes: most.length + 1 },
    });
    expect([limits.maxEnvBytes, limits.maxMetadataBytes]).toEqual([1024 * 1024, 1024 * 1024]);
    await journal.makeDirectories(id, uid);
    const large = { ...record, envs: { a: most }, metadata: { a: most } };
    await journal.write(large);
    expect(await journal.readAll()).toEqual({ records: [large], unknownKeys: new Map(), corrupt: [] });
  });

  it('that an agent wrote which knows more is read as far as it is known, and told', async () => {
    await journal.makeDirectories(id, uid);
    const more = { ...record, later: 1, egress: { ...record.egress, ports: [1] } };
    await writeFile(join(dir, 'sandboxes', id, 'sandbox.json'), JSON.stringify(more));
    const unknownKeys = new Map([[id, ['egress.ports', 'later']]]);
    expect(await journal.readAll()).toEqual({ records: [record], unknownKeys, corrupt: [] });
  });

  it('is not taken for corrupt when it cannot be read, or is of another version', async () => {
    await journal.makeDirectories(id, uid);
    const path = join(dir, 'sandboxes', id, 'sandbox.json');
    await mkdir(path);
    await expect(journal.readAll()).rejects.toThrow(/cannot be read: EISDIR/);
    await rm(path, { recursive: true });
    await writeFile(path, JSON.stringify({ ...record, version: 2 }));
    await expect(journal.readAll()).rejects.toMatchObject({ message: expect.stringContaining('version 2') });
    expect(await readdir(join(dir, 'sandboxes', id))).toEqual(['run', 'sandbox.json']);
  });

  it('never names a path outside', () => {
    expect(() => journal.files('../../etc/passwd00000')).toThrow('not a sandbox id');
  });
});

describe('parsing', () => {
  it('refuses what is not valid, and another sandbox', () => {
    const codes = [
      JSON.stringify({ ...record, version: 2 }),
      JSON.stringify({ ...record, state: 'failed' }),
      JSON.stringify({ ...record, id: 'z'.repeat(20) }),
      JSON.stringify({ ...record, handle: { ...record.handle, pid: 0 } }),
      'null',
      '',
    ];
    for (const text of codes) expect(() => parseRecord(text, id), text).toThrow(/journal of sandbox/);
  });

  it('takes a record from before there were rate limits', () => {
    const { rateLimits: _, ...old } = record;
    expect(parseRecord(JSON.stringify(old), id).record).toEqual({ ...record, rateLimits: {} });
  });

  it('never throws anything but journal_corrupt', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
        expect(() => parseRecord(text, id)).toThrow(expect.objectContaining({ code: 'journal_corrupt' }));
      }),
    );
  });
});
