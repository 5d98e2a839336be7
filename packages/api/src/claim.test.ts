/** One API for each database on a server: a second one is refused before it takes anything of the first's away. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import pg from 'pg';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Api, createApi } from './api.ts';
import { parseApiConfig } from './config/schema.ts';
import { openStore, type Store } from './store/index.ts';
import { claimServer } from './store/server-claim.ts';
import { type FakeAgent, startFakeAgent } from './testing/fake-agent.ts';
import { type PostgresServer, startPostgres } from './testing/postgres.ts';

let dir: string;
let postgres: PostgresServer;
let agent: FakeAgent;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-claim-'));
  agent = await startFakeAgent(join(dir, 'agent.sock'));
  postgres = await startPostgres();
}, 60_000);
afterAll(async () => {
  await agent.close();
  await postgres.stop();
  rmSync(dir, { recursive: true, force: true });
});

const configOf = (databaseUrl: string) =>
  parseApiConfig({
    listen: { port: 0 },
    agent: { socketPath: join(dir, 'agent.sock') },
    store: { databaseUrl },
    sandboxes: { watchIntervalMs: 50 },
  });
const open = async (databaseUrl: string): Promise<{ readonly api: Api; readonly store: Store }> => {
  const config = configOf(databaseUrl);
  const store = await openStore(config.store);
  return { store, api: createApi(config, { store, log: pino({ enabled: false }), version: '0.0.0-test' }) };
};
const inUse = { code: 'store_in_use' };

describe('a database on a server', () => {
  it('has one API, and the second one touches nothing of the first', { timeout: 60_000 }, async () => {
    const url = postgres.database();
    const first = await open(url);
    const { port } = await first.api.listen();
    const { secret: key } = await first.store.keys.create({ name: 'first' });
    // One that is being made while the second API starts: begun in the store, and the agent has not answered.
    let second: Promise<unknown> = Promise.reject(new Error('not asked'));
    second.catch(() => {});
    const other = await open(url);
    agent.onCreate = () => {
      second = other.api.listen();
      second.catch(() => {});
    };
    const made = await fetch(`http://127.0.0.1:${port}/v2/sandboxes`, {
      method: 'POST',
      headers: { 'x-api-key': key, 'content-type': 'application/json' },
      body: JSON.stringify({ templateID: 'base' }),
    });
    agent.onCreate = undefined;
    expect(made.status).toBe(201);
    await expect(second).rejects.toMatchObject(inUse);
    // Whoever only makes a key is no API.
    expect((await other.store.keys.list()).map(({ name }) => name)).toEqual(['first']);
    await other.api.close();
    expect(agent.sandboxes.size).toBe(1);
    await first.api.close();
    const next = await open(url);
    await next.api.listen();
    await next.api.close();
    expect(agent.sandboxes.size).toBe(1);
  });

  it('is an API’s own as one of several databases of a server', async () => {
    const both = await Promise.all([open(postgres.database()), open(postgres.database())]);
    await Promise.all(both.map(({ api }) => api.listen()));
    await Promise.all(both.map(({ api }) => api.close()));
  });

  it('is claimed again after its sessions broke, or another API’s by then, and the first one ends', {
    timeout: 60_000,
  }, async () => {
    const url = postgres.database();
    const { api, store } = await open(url);
    const { port } = await api.listen();
    const [before] = await locks(url, true);
    expect(before).toBeDefined();
    await breakSessions(url);
    const claimedAgain = async () => (await locks(url, true)).some((pid) => pid !== before);
    await expect.poll(claimedAgain, { timeout: 10_000 }).toBe(true);
    expect((await fetch(`http://127.0.0.1:${port}/health`)).status).toBe(204);
    const rival = await openStore(configOf(url).store);
    await expect(rival.claim(() => {})).rejects.toMatchObject(inUse);
    await rival.close();
    // Another one is faster than it.
    const options = { connectionString: url, connectTimeoutMs: 5000, waitMs: 4500 };
    const faster = claimServer({ ...options, onLost: () => {} }).catch(WrennError.from);
    await expect.poll(() => locks(url, false), { interval: 20 }).toHaveLength(1);
    await breakSessions(url);
    const claim = await faster;
    if (claim instanceof WrennError) throw claim;
    expect(await api.failed).toMatchObject(inUse);
    await api.close();
    await expect(store.ping()).rejects.toThrow();
    await claim.release();
    await expect.poll(() => locks(url, true)).toEqual([]);
  });

  it('is not held by a session that has lost the lock without knowing', { timeout: 30_000 }, async () => {
    const url = postgres.database();
    await (await openStore(configOf(url).store)).close();
    const lost: WrennError[] = [];
    const options = { connectionString: url, connectTimeoutMs: 5000, beatMs: 50 };
    const claim = await claimServer({ ...options, onLost: (error) => void lost.push(error) });
    expect(lost).toEqual([]);
    // As of a server that is there and says nothing any more.
    const [backend = ''] = await locks(url, true);
    expect(spawnSync('kill', ['-STOP', backend]).status).toBe(0);
    try {
      await claim.release();
    } finally {
      spawnSync('kill', ['-CONT', backend]);
    }
    await expect.poll(() => locks(url, true), { timeout: 10_000 }).toEqual([]);
  });
});

async function column(connectionString: string, query: string): Promise<string[]> {
  const client = new pg.Client({ connectionString });
  await client.connect();
  try {
    const { rows } = await client.query<{ value: string }>(query);
    return rows.map(({ value }) => value);
  } finally {
    await client.end();
  }
}

const LOCKS = `pg_locks WHERE locktype = 'advisory'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`;

/** The sessions that hold the claim, or wait for it. */
const locks = (url: string, granted: boolean): Promise<string[]> =>
  column(url, `SELECT pid::text AS value FROM ${LOCKS} AND granted = ${granted}`);

/** All but those that wait. */
const breakSessions = (url: string): Promise<string[]> =>
  column(
    url,
    `SELECT pg_terminate_backend(pid)::text AS value FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid()
     AND pid NOT IN (SELECT pid FROM ${LOCKS} AND NOT granted)`,
  );
