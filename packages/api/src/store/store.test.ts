import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { parseApiConfig } from '../config/schema.ts';
import { type PostgresServer, startPostgres } from '../testing/postgres.ts';
import { bundleProgram } from '../testing/program.ts';
import { createStore, openStore, type Store } from './index.ts';
import { migrate } from './migrations.ts';
import { type OpenDatabase, openDatabase } from './open.ts';
import type { NewSandboxRecord } from './sandboxes.ts';

const KILLS = 20;

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-store-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 }));

describe('the embedded store', () => {
  let count = 0;
  suite(() => {
    count += 1;
    return { dataDir: join(dir, `embedded-${count}`) };
  });

  it('is one process’s', { timeout: 60_000 }, async () => {
    const config = parseApiConfig({ store: { dataDir: join(dir, 'owned') } }).store;
    const store = await openStore(config);
    await expect(openStore(config)).rejects.toMatchObject({ code: 'store_in_use' });
    await store.close();
    await (await openStore(config)).close();
  });

  it('has what it acknowledged after kill -9, twenty times', { timeout: 600_000 }, async () => {
    const dataDir = join(dir, 'killed');
    const { file, remove } = await bundleProgram('store-writer');
    const acknowledged: string[] = [];
    try {
      for (let round = 0; round < KILLS; round += 1) {
        acknowledged.push(...(await writeUntilKilled(file, dataDir, 5 + ((round * 7) % 40))));
        const store = await openStore(parseApiConfig({ store: { dataDir } }).store);
        const ids = new Set((await store.sandboxes.live()).map(({ id }) => id));
        expect(acknowledged.filter((id) => !ids.has(id))).toEqual([]);
        await store.close();
      }
    } finally {
      remove();
    }
    expect(acknowledged.length).toBeGreaterThan(KILLS * 10);
  });
});

describe('the store on a server', () => {
  let server: PostgresServer;
  beforeAll(async () => {
    server = await startPostgres();
  }, 60_000);
  afterAll(async () => await server.stop());

  suite(() => ({ databaseUrl: server.database() }));

  it('can be opened twice', async () => {
    const { store } = parseApiConfig({ store: { databaseUrl: server.database() } });
    const both = await Promise.all([openStore(store), openStore(store)]);
    await Promise.all(both.map((one) => one.close()));
  });

  it('tells why it cannot be used, and nothing of its address', async () => {
    const url = new URL(server.database());
    const { port } = url;
    const refusal = async (change: Partial<URL>) => {
      const databaseUrl = String(Object.assign(new URL(url), { password: 'sesame' }, change));
      const { store } = parseApiConfig({ store: { databaseUrl } });
      return await openStore(store).then(
        () => 'opened',
        ({ code, message, hint }) => `${code} ${message} ${hint}`,
      );
    };
    const told = [
      await refusal({ port: '1' }),
      await refusal({ pathname: '/none' }),
      await refusal({ username: 'nobody' }),
      // A label that is too long to be asked for: this must not hang on a resolver.
      await refusal({ hostname: 'x'.repeat(64) }),
    ];
    expect(told).toEqual([
      expect.stringContaining('cannot be used: nobody listens where it should be.'),
      expect.stringContaining('cannot be used: the server has no database of this name.'),
      expect.stringContaining('cannot be used: the server does not let this user in.'),
      expect.stringContaining('cannot be used: its host is not known.'),
    ]);
    for (const text of told) expect(text).not.toMatch(new RegExp(`sesame|${port}|127\\.0`));
  });
});

function suite(place: () => { readonly dataDir?: string; readonly databaseUrl?: string }): void {
  let store: Store;
  let opened: OpenDatabase;
  beforeAll(async () => {
    opened = await openDatabase(parseApiConfig({ store: place() }).store);
    store = createStore(opened);
  }, 60_000);
  beforeEach(async () => {
    const tables = 'api_keys, creations, sandboxes, snapshots, snapshot_names, templates, template_aliases';
    await sql.raw(`TRUNCATE ${tables}, template_tags`).execute(opened.db);
  });
  afterAll(async () => await store.close());

  it('keeps keys as hashes, and knows those that still hold', async () => {
    const { key, secret } = await store.keys.create({ name: 'one', limits: { maxSandboxes: 2 } });
    expect(secret).toMatch(/^e2b_[0-9a-f]{40}$/);
    expect(secret.startsWith(key.prefix)).toBe(true);
    expect(JSON.stringify(await store.keys.list())).not.toContain(secret);
    expect(await store.keys.authenticate(secret)).toEqual(key);
    expect(key.limits).toEqual({ maxSandboxes: 2 });
    expect(
      await store.keys.authenticate(`${secret.slice(0, -1)}${secret.endsWith('0') ? '1' : '0'}`),
    ).toBeUndefined();
    expect(await store.keys.authenticate('e2b_')).toBeUndefined();
    expect((await store.keys.rename(key.id, 'two')).name).toBe('two');
    await store.keys.markUsed(key.id, new Date(5000));
    expect((await store.keys.list())[0]?.lastUsedAt).toEqual(new Date(5000));
    await store.keys.revoke(key.id);
    expect(await store.keys.authenticate(secret)).toBeUndefined();
    await expect(store.keys.revoke('none')).rejects.toMatchObject({ code: 'api_key_not_found' });
    const old = await store.keys.create({ name: 'old', expiresAt: new Date(Date.now() - 1) });
    expect(await store.keys.authenticate(old.secret)).toBeUndefined();
  });

  it('knows of a key at once what has changed', async () => {
    const { key, secret } = await store.keys.create({ name: 'one' });
    const other = await store.keys.create({ name: 'other' });
    for (const _ of [1, 2]) expect(await store.keys.authenticate(secret)).toEqual(key);
    await store.keys.rename(key.id, 'two');
    expect((await store.keys.authenticate(secret))?.name).toBe('two');
    await store.keys.markUsed(key.id, new Date(5000));
    expect((await store.keys.authenticate(secret))?.lastUsedAt).toEqual(new Date(5000));
    // Also those that look at it while it is being revoked must not remember it as it was.
    const during: Promise<unknown>[] = [];
    const looking = setInterval(() => during.push(store.keys.authenticate(other.secret)), 0);
    const revoked = store.keys.revoke(other.key.id);
    during.push(...Array.from({ length: 10 }, () => store.keys.authenticate(other.secret)));
    await revoked;
    expect(await store.keys.authenticate(other.secret)).toBeUndefined();
    clearInterval(looking);
    await Promise.all(during);
    expect(await store.keys.authenticate(other.secret)).toBeUndefined();
  });

  it('does not know a key any longer than it holds', async () => {
    for (const holdsMs of [300, 600, 1200, 2400, 4800]) {
      const expiresAt = new Date(Date.now() + holdsMs);
      const { key, secret } = await store.keys.create({ name: 'brief', expiresAt });
      const known = await store.keys.authenticate(secret);
      // A machine that stands still may take all of its time away.
      if (known === undefined) continue;
      expect(known).toEqual(key);
      await expect.poll(() => store.keys.authenticate(secret)).toBeUndefined();
      return;
    }
    expect.fail('none was ever known');
  });

  it('keeps sandboxes with their owners, newest first, until they end', async () => {
    await store.sandboxes.begin('c1', 't1');
    await store.sandboxes.begin('c2', 't1');
    expect([...(await store.sandboxes.unfinished())].sort()).toEqual(['c1', 'c2']);
    const first = record('a', { metadata: { 'k\'"': '\u0001ü', __proto__x: 'y' }, trafficToken: 'secret' });
    await store.sandboxes.finish('c1', [first, record('b')]);
    await store.sandboxes.finish('c2', []);
    expect(await store.sandboxes.unfinished()).toEqual([]);
    const found = await store.sandboxes.get('a');
    expect(found).toMatchObject(first);
    await store.sandboxes.setTimeout('a', 7000, new Date(9000));
    await store.sandboxes.setNetwork('a', { allowOut: ['1.1.1.1'] });
    expect(await store.sandboxes.get('a')).toMatchObject({
      timeoutMs: 7000,
      endsAt: new Date(9000),
      network: { allowOut: ['1.1.1.1'] },
    });
    await store.sandboxes.finish('c3', [record('c', { teamId: 't2' })]);
    expect((await store.sandboxes.live()).map(({ id }) => id)).toEqual(['c', 'b', 'a']);
    expect((await store.sandboxes.live('t1')).map(({ id }) => id)).toEqual(['b', 'a']);
    await store.sandboxes.markEnded(['b'], new Date());
    expect(await store.sandboxes.get('b')).toBeUndefined();
    expect(await store.sandboxes.count('t1', 'k')).toBe(1);
    expect(await store.sandboxes.count('t1', 'other')).toBe(0);
    expect(await store.sandboxes.count('t2', 'k')).toBe(1);
    expect((await store.sandboxes.live('t1')).map(({ id }) => id)).toEqual(['a']);
  });

  it('knows how many of a key’s there are, whatever came and went since it was last asked', async () => {
    const count = () => store.sandboxes.count('t1', 'counted');
    const counted = (id: string) => record(id, { keyId: 'counted' });
    expect(await count()).toBe(0);
    await store.sandboxes.finish('c1', [counted('a'), counted('b'), record('c')]);
    expect(await count()).toBe(2);
    await expect(store.sandboxes.finish('c2', [counted('d'), counted('a')])).rejects.toThrow();
    expect(await count()).toBe(2);
    for (const _ of [1, 2]) await store.sandboxes.markEnded(['a', 'c', 'none'], new Date());
    expect(await count()).toBe(1);
    await Promise.all([
      ...Array.from({ length: 20 }, (_, n) => store.sandboxes.finish(`p${n}`, [counted(`p${n}`)])),
      ...Array.from({ length: 20 }, count),
      store.sandboxes.markEnded(['b'], new Date()),
    ]);
    expect(await count()).toBe(20);
  });

  it('undoes what fails half-way', async () => {
    await store.sandboxes.begin('c1', 't1');
    await expect(store.sandboxes.finish('c1', [record('a'), record('a')])).rejects.toThrow();
    expect(await store.sandboxes.get('a')).toBeUndefined();
    expect(await store.sandboxes.unfinished()).toEqual(['c1']);
  });

  it('serves many at once', async () => {
    await Promise.all(
      Array.from({ length: 40 }, async (_, n) => {
        await store.sandboxes.begin(`c${n}`, 't');
        await store.sandboxes.finish(`c${n}`, [record(`s${n}`)]);
      }),
    );
    expect(await store.sandboxes.live()).toHaveLength(40);
    expect(await store.sandboxes.unfinished()).toEqual([]);
  });

  it('keeps snapshots, whose names go over to the newest', async () => {
    const base = { teamId: 't', keyId: 'k', sandboxId: 's', createdAt: new Date(1000) };
    await store.snapshots.add({ ...base, id: 'one', names: ['n:default'] });
    await store.snapshots.add({ ...base, id: 'two', names: ['n:default', 'm:v1'] });
    expect((await store.snapshots.list('t')).map(({ id, names }) => [id, names])).toEqual([
      ['two', ['m:v1', 'n:default']],
      ['one', []],
    ]);
    expect((await store.snapshots.byName('t', 'n:default'))?.id).toBe('two');
    expect(await store.snapshots.get('other', 'two')).toBeUndefined();
    expect([...(await store.snapshots.idsOf('k'))].sort()).toEqual(['one', 'two']);
    expect(await store.snapshots.idsOf('other')).toEqual([]);
    await store.snapshots.remove('two');
    expect(await store.snapshots.byName('t', 'm:v1')).toBeUndefined();
  });

  it('knows of snapshots from before keys were noted whose they are', async () => {
    await store.sandboxes.finish('c1', [record('a', { keyId: 'maker' })]);
    await sql`DROP INDEX snapshots_key`.execute(opened.db);
    await sql`ALTER TABLE snapshots DROP COLUMN key_id`.execute(opened.db);
    await sql`DELETE FROM migrations WHERE id = 2`.execute(opened.db);
    for (const [id, sandboxId] of [
      ['one', 'a'],
      ['two', 'unknown'],
    ]) {
      await sql`INSERT INTO snapshots (id, team_id, sandbox_id, created_at)
        VALUES (${id}, 't', ${sandboxId}, now())`.execute(opened.db);
    }
    await migrate(opened.db);
    expect(await store.snapshots.idsOf('maker')).toEqual(['one']);
    expect((await store.snapshots.list('t')).map(({ id }) => id)).toEqual(['two', 'one']);
  });

  it('counts the use of templates, and keeps their aliases and tags', async () => {
    await store.sandboxes.begin('c1', 't1');
    const before = Date.now();
    await store.sandboxes.finish('c1', [record('a')], 'base');
    await expect(store.sandboxes.finish('c2', [record('a')], 'base')).rejects.toThrow();
    await store.sandboxes.finish('c3', [record('b')], 'base');
    await store.templates.setPublic('base', false);
    const use = (await store.templates.uses()).get('base');
    expect(use).toMatchObject({ public: false, spawnCount: 2 });
    expect(use?.lastSpawnedAt?.getTime()).toBeGreaterThanOrEqual(before);
    expect(await store.sandboxes.unfinished()).toEqual([]);
    await store.templates.setAlias('x', 'base');
    await store.snapshots.add({
      id: 's1',
      teamId: 't',
      keyId: 'k',
      sandboxId: 's',
      createdAt: new Date(),
      names: ['n:v1'],
    });
    const hidden = new Set(['base']);
    expect(await store.templates.meanings('t', 'x', 'x:default')).toEqual({ aliasOf: 'base', hidden });
    expect(await store.templates.meanings('t', 'n', 'n:v1')).toEqual({ snapshotId: 's1', hidden });
    expect(await store.templates.meanings('t', 's1', 's1:v1')).toEqual({ snapshotId: 's1', hidden });
    expect(await store.templates.meanings('other', 's1', 'n:v1')).toEqual({ hidden });
    await store.templates.setPublic('base', true);
    expect(await store.templates.meanings('t', 'n', 'n:default')).toEqual({ hidden: new Set() });
    await store.templates.setTags('base', ['v1', 'v2'], 'b1');
    await store.templates.setTags('base', ['v1'], 'b2');
    expect((await store.templates.tags('base')).map(({ tag, buildId }) => [tag, buildId])).toEqual([
      ['v1', 'b2'],
      ['v2', 'b1'],
    ]);
    expect(await store.templates.removeTags('base', ['v2', 'none'])).toBe(1);
  });
}

function record(id: string, change: Partial<NewSandboxRecord> = {}): NewSandboxRecord {
  return {
    id,
    teamId: 't1',
    keyId: 'k',
    template: 'base',
    metadata: {},
    trafficToken: undefined,
    network: {},
    autoPause: false,
    autoResume: true,
    timeoutMs: 1000,
    createdAt: new Date(1000),
    endsAt: new Date(2000),
    ...change,
  };
}

/** Another process writes sandboxes and says which are written; it is killed after so many. */
async function writeUntilKilled(file: string, dataDir: string, count: number): Promise<string[]> {
  return await new Promise((resolve, reject) => {
    const seen: string[] = [];
    const writer = spawn(process.execPath, [file, dataDir], { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    writer.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      const lines = text.split('\n');
      text = lines.pop() ?? '';
      seen.push(...lines);
      if (seen.length >= count) writer.kill('SIGKILL');
    });
    writer.once('error', reject);
    writer.once('close', () => (seen.length >= count ? resolve(seen) : reject(new Error('it ended early'))));
  });
}
