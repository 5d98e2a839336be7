/** Kysely on PGlite: PostgreSQL's dialect over the one connection that there is. */
import type { PGlite } from '@electric-sql/pglite';
import {
  CompiledQuery,
  type DatabaseConnection,
  type Dialect,
  type Driver,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
} from 'kysely';

export function createPgliteDialect(client: PGlite): Dialect {
  return {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => createDriver(client),
    createIntrospector: (db) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  };
}

/** The connection goes from hand to hand, so that nobody's query falls into another's transaction. */
function createDriver(client: PGlite): Driver {
  let last: Promise<void> = Promise.resolve();
  const releases = new WeakMap<DatabaseConnection, () => void>();
  const run = (connection: DatabaseConnection, text: string) =>
    connection.executeQuery(CompiledQuery.raw(text));
  return {
    init: async () => {},
    acquireConnection: async () => {
      const before = last;
      let release = () => {};
      last = new Promise<void>((resolve) => {
        release = resolve;
      });
      await before;
      const connection = createConnection(client);
      releases.set(connection, release);
      return connection;
    },
    beginTransaction: async (connection) => void (await run(connection, 'BEGIN')),
    commitTransaction: async (connection) => void (await run(connection, 'COMMIT')),
    rollbackTransaction: async (connection) => void (await run(connection, 'ROLLBACK')),
    releaseConnection: async (connection) => releases.get(connection)?.(),
    destroy: async () => await client.close(),
  };
}

function createConnection(client: PGlite): DatabaseConnection {
  return {
    async executeQuery<R>({ sql, parameters }: CompiledQuery) {
      const { rows, affectedRows } = await client.query<R>(sql, [...parameters]);
      return { rows, ...(affectedRows === undefined ? {} : { numAffectedRows: BigInt(affectedRows) }) };
    },
    streamQuery: () => {
      throw new Error('PGlite has no cursors.');
    },
  };
}
