/** A server that stops answering without ending its connections, as one whose host has lost its power. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { Kysely, PostgresDialect, type QueryExecutorProvider, sql } from 'kysely';
import pg from 'pg';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { type PostgresServer, startPostgres } from '../testing/postgres.ts';
import { openServerPool } from './server-pool.ts';

const STATEMENT_TIMEOUT_MS = 500;

let postgres: PostgresServer;
let way: Server;
/** Both ends of each connection. */
let pairs: [Socket, Socket][] = [];
let db: Kysely<unknown>;

beforeAll(async () => {
  postgres = await startPostgres();
  const address = new URL(postgres.database());
  const { port, hostname } = address;
  way = createServer((client) => {
    const server = connect(Number(port), hostname);
    pairs.push([client, server]);
    for (const socket of [client, server]) socket.on('error', () => {});
    client.pipe(server).pipe(client);
  });
  await once(way.listen(0, '127.0.0.1'), 'listening');
  address.port = String((way.address() as AddressInfo).port);
  const pool = openServerPool({
    connectionString: address.href,
    maxConnections: 1,
    connectTimeoutMs: 5000,
    statementTimeoutMs: STATEMENT_TIMEOUT_MS,
  });
  db = new Kysely({ dialect: new PostgresDialect({ pool }) });
}, 90_000);
afterAll(async () => {
  await db?.destroy();
  for (const socket of pairs.flat()) socket.destroy();
  way?.close();
  await postgres?.stop();
});

const one = async (on: QueryExecutorProvider = db) =>
  (await sql<{ one: number }>`SELECT 1 AS one`.execute(on)).rows[0]?.one;

function fallSilent(): void {
  for (const [client, server] of pairs) {
    client.unpipe(server);
    server.unpipe(client);
  }
  pairs = [];
}

it('a connection on which nothing comes back fails one statement, and is not used again', async () => {
  expect(await one()).toBe(1);
  fallSilent();
  await expect(one()).rejects.toThrow('timeout');
  expect(await one()).toBe(1);
});

it('a transaction on it fails without waiting once more for its end', async () => {
  const asked = vi.spyOn(pg.Client.prototype, 'query');
  const broken = db.transaction().execute(async (transaction) => {
    await one(transaction);
    fallSilent();
    await one(transaction);
  });
  await expect(broken).rejects.toThrow('timeout');
  // No end of it: nobody would answer that, either.
  const texts = asked.mock.calls.map(([text]) => String(text));
  asked.mockRestore();
  expect(texts).toEqual(['begin', 'SELECT 1 AS one', 'SELECT 1 AS one']);
  expect(await one()).toBe(1);
});

it('a statement that takes too long is ended by the server, and costs no connection', async () => {
  const tooLong = async () => {
    await one();
    const before = pairs.length;
    const error = await sql`SELECT pg_sleep(5)`.execute(db).then(
      () => undefined,
      (error: unknown) => error,
    );
    return { before, error };
  };
  let { before, error } = await tooLong();
  // Where this machine stood still for the grace as well, both limits were over at once.
  if (error instanceof Error && error.message === 'Query read timeout') ({ before, error } = await tooLong());
  expect(error).toMatchObject({ code: '57014' });
  expect(await one()).toBe(1);
  expect(pairs.length).toBe(before);
});
