/** Opens the database, embedded or a server's, and brings its tables up to date. */
import { chmod, mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { WrennError } from '@wrenn/protocol';
import { Kysely, PostgresDialect } from 'kysely';
import type { ApiConfig } from '../config/schema.ts';
import { lockStore } from './lock.ts';
import { migrate } from './migrations.ts';
import { createPgliteDialect } from './pglite-dialect.ts';
import type { Database } from './schema.ts';
import { type Claim, claimServer } from './server-claim.ts';
import { openServerPool } from './server-pool.ts';

const CONNECT_TIMEOUT_MS = 5000;
const STATEMENT_TIMEOUT_MS = 15_000;

export interface OpenDatabase {
  readonly db: Kysely<Database>;
  /** Nobody else can change what is in it. */
  readonly isExclusive: boolean;
  /** For an API that serves: see that of the store. */
  readonly claim: (onLost: (error: WrennError) => void) => Promise<void>;
  readonly close: () => Promise<void>;
}

export async function openDatabase(config: ApiConfig['store']): Promise<OpenDatabase> {
  const opened =
    config.databaseUrl === undefined
      ? await openEmbedded(config.dataDir)
      : openServer(config.databaseUrl, config.maxConnections);
  try {
    await migrate(opened.db);
    return opened;
  } catch (error) {
    await opened.close().catch(() => {});
    const why = reasonOf(error);
    throw new WrennError('store_unavailable', `The database cannot be used${why === '' ? '' : `: ${why}`}.`, {
      hint:
        config.databaseUrl === undefined
          ? `Its files are in ${config.dataDir}.`
          : 'Check DATABASE_URL, and that its user may create tables.',
      cause: error,
    });
  }
}

/** By the codes of PostgreSQL and of the system: their words may have the address with its password. */
const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nobody listens where it should be',
  ENOTFOUND: 'its host is not known',
  EAI_AGAIN: 'its host is not known',
  ENOENT: 'its socket is not there',
  '28000': 'the server does not let this user in',
  '28P01': 'user or password is wrong',
  '3D000': 'the server has no database of this name',
  '42501': 'its user may not create tables',
};

function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  return REASONS[code] ?? (/^[A-Z0-9_]{4,20}$/.test(code) ? code : '');
}

/** 8-byte integers as text with both drivers, whatever their values. */
const INT8_OID = 20;

async function openEmbedded(dataDir: string): Promise<OpenDatabase> {
  // Others may pass through, to the certificate that they are to trust; never into the store.
  await mkdir(dirname(dataDir), { recursive: true, mode: 0o711 });
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  await chmod(dataDir, 0o700);
  const unlock = await lockStore(`${dataDir}.lock`);
  try {
    const client = await PGlite.create({
      dataDir,
      // A query is answered after its pages have been given to the kernel, not before.
      relaxedDurability: false,
      parsers: { [INT8_OID]: (value: string) => value },
    });
    const db = new Kysely<Database>({ dialect: createPgliteDialect(client) });
    const close = async () => {
      try {
        await db.destroy();
      } finally {
        await unlock();
      }
    };
    // The file's lock is the claim, and nobody takes that away.
    return { db, isExclusive: true, claim: async () => {}, close };
  } catch (error) {
    await unlock();
    throw new WrennError('store_unavailable', 'The embedded store cannot be opened.', {
      hint: `Its files are in ${dataDir}; restore them from a copy if they are damaged.`,
      cause: error,
    });
  }
}

function openServer(connectionString: string, maxConnections: number): OpenDatabase {
  const pool = openServerPool({
    connectionString,
    maxConnections,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    statementTimeoutMs: STATEMENT_TIMEOUT_MS,
  });
  const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool }) });
  let claimed: Promise<Claim> | undefined;
  return {
    db,
    isExclusive: false,
    claim: async (onLost) => {
      claimed ??= claimServer({ connectionString, connectTimeoutMs: CONNECT_TIMEOUT_MS, onLost });
      await claimed;
    },
    close: async () => {
      try {
        await db.destroy();
      } finally {
        await claimed?.then(
          (claim) => claim.release(),
          () => {},
        );
      }
    },
  };
}
