/** Connections to a server, as the query layer takes and gives them back. */
import type { PostgresPool, PostgresPoolClient } from 'kysely';
import pg from 'pg';

export interface ServerPoolOptions {
  readonly connectionString: string;
  readonly maxConnections: number;
  readonly connectTimeoutMs: number;
  /** What the server gives a statement. */
  readonly statementTimeoutMs: number;
}

/** Longer than the server's own limit by this: one that is there says itself that a statement took too long. */
const GRACE_MS = 2000;
/** What the driver's error says; it has no code. */
const TIMED_OUT = 'Query read timeout';

export function openServerPool({
  connectionString,
  maxConnections,
  connectTimeoutMs,
  statementTimeoutMs,
}: ServerPoolOptions): PostgresPool {
  const pool = new pg.Pool({
    connectionString,
    max: maxConnections,
    connectionTimeoutMillis: connectTimeoutMs,
    statement_timeout: statementTimeoutMs,
    query_timeout: statementTimeoutMs + GRACE_MS,
  });
  // A connection that breaks while idle is replaced; without a listener it would end the process.
  pool.on('error', () => {});
  // One that breaks in the middle of a query tells the query, and whoever listens to it: nobody, while it is in use.
  pool.on('connect', (client) => client.on('error', () => {}));
  return {
    connect: async () => discardOnceSilent(await pool.connect()),
    end: async () => await pool.end(),
  };
}

/**
 * Whoever has not answered a statement for so long is not there any more, though nothing has said so (a host without
 * power, a firewall that forgot the connection). The driver would let the next ones wait for it, too.
 */
function discardOnceSilent(client: pg.PoolClient): PostgresPoolClient {
  let silent: Error | undefined;
  const query = async (sql: string, parameters: readonly unknown[]): Promise<unknown> => {
    // The end of its transaction, above all.
    if (silent !== undefined) throw silent;
    try {
      return await client.query(sql, [...parameters]);
    } catch (error) {
      if (error instanceof Error && error.message === TIMED_OUT) silent = error;
      throw error;
    }
  };
  return {
    query: query as PostgresPoolClient['query'],
    release: (destroy) => client.release(silent !== undefined || destroy === true),
  };
}
