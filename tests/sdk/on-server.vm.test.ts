/** The newest SDK once more, with a PostgreSQL server as the API's store: all that is kept there, and asked for again. */
import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type PostgresServer, startPostgres } from '../../packages/api/src/testing/postgres.ts';
import { createContext } from './context.ts';
import { lifecycleCases } from './lifecycle.ts';
import { VERSIONS } from './sdks.ts';
import { type SdkServer, startServer } from './server.ts';
import { snapshotCases } from './snapshots.ts';
import { templateCases } from './templates.ts';

const [newest] = VERSIONS;
if (newest === undefined) throw new Error('there is no version');
const context = await createContext(newest);
let database: PostgresServer | undefined;
let server: SdkServer | undefined;

describe('with a database server', () => {
  beforeAll(async () => {
    database = await startPostgres();
    server = await startServer(61, { databaseUrl: database.database() });
    await context.open(server);
  });
  afterAll(async () => {
    await context.close();
    await server?.close();
    await database?.stop();
  });
  it('there is no embedded store', () => {
    expect(existsSync(server?.dataDir ?? '')).toBe(false);
  });
  describe('sandboxes', () => lifecycleCases(context));
  describe('snapshots', () => snapshotCases(context));
  describe('templates', () => templateCases(context));
});
