/**
 * Plain SQL, in order, each applied once and in a transaction. One that has been released is never edited: a change
 * is a new one. Statements are separate because PGlite and pg run only one at a time with parameters.
 */
import { type Kysely, sql } from 'kysely';
import type { Database } from './schema.ts';

interface Migration {
  readonly id: number;
  readonly name: string;
  readonly statements: readonly string[];
}

const MIGRATIONS: readonly Migration[] = [
  {
    id: 1,
    name: 'keys, sandboxes, snapshots, templates',
    statements: [
      `CREATE TABLE api_keys (
        id text PRIMARY KEY,
        team_id text NOT NULL,
        name text NOT NULL,
        hash text NOT NULL UNIQUE,
        prefix text NOT NULL,
        admin boolean NOT NULL,
        limits jsonb NOT NULL,
        created_at timestamptz NOT NULL,
        expires_at timestamptz,
        revoked_at timestamptz,
        last_used_at timestamptz
      )`,
      'CREATE INDEX api_keys_team ON api_keys (team_id)',
      `CREATE TABLE creations (
        id text PRIMARY KEY,
        team_id text NOT NULL,
        created_at timestamptz NOT NULL
      )`,
      `CREATE TABLE sandboxes (
        id text PRIMARY KEY,
        number bigint GENERATED ALWAYS AS IDENTITY,
        team_id text NOT NULL,
        key_id text NOT NULL,
        template text NOT NULL,
        metadata jsonb NOT NULL,
        traffic_token text,
        network jsonb NOT NULL,
        auto_pause boolean NOT NULL,
        auto_resume boolean NOT NULL,
        timeout_ms bigint NOT NULL,
        created_at timestamptz NOT NULL,
        ends_at timestamptz NOT NULL,
        ended_at timestamptz
      )`,
      'CREATE INDEX sandboxes_live ON sandboxes (team_id, number) WHERE ended_at IS NULL',
      `CREATE TABLE snapshots (
        id text PRIMARY KEY,
        number bigint GENERATED ALWAYS AS IDENTITY,
        team_id text NOT NULL,
        sandbox_id text NOT NULL,
        created_at timestamptz NOT NULL
      )`,
      'CREATE INDEX snapshots_team ON snapshots (team_id, number)',
      `CREATE TABLE snapshot_names (
        team_id text NOT NULL,
        name text NOT NULL,
        snapshot_id text NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
        PRIMARY KEY (team_id, name)
      )`,
      'CREATE INDEX snapshot_names_snapshot ON snapshot_names (snapshot_id)',
      `CREATE TABLE templates (
        name text PRIMARY KEY,
        public boolean NOT NULL DEFAULT true,
        spawn_count bigint NOT NULL DEFAULT 0,
        last_spawned_at timestamptz,
        updated_at timestamptz NOT NULL
      )`,
      'CREATE TABLE template_aliases (alias text PRIMARY KEY, template text NOT NULL)',
      `CREATE TABLE template_tags (
        template text NOT NULL,
        tag text NOT NULL,
        build_id text NOT NULL,
        created_at timestamptz NOT NULL,
        PRIMARY KEY (template, tag)
      )`,
    ],
  },
  {
    id: 2,
    name: 'whose a snapshot is',
    statements: [
      'ALTER TABLE snapshots ADD COLUMN key_id text',
      // Nobody noted who made those that there are: they count for the key of the sandbox.
      'UPDATE snapshots SET key_id = (SELECT key_id FROM sandboxes WHERE sandboxes.id = snapshots.sandbox_id)',
      'CREATE INDEX snapshots_key ON snapshots (key_id)',
    ],
  },
];

/** Held while migrations run, so that two processes on one server do not both apply them. */
const MIGRATION_LOCK = 0x77_72_65_6e;

export async function migrate(db: Kysely<Database>): Promise<void> {
  await db.transaction().execute(async (transaction) => {
    await sql`SELECT pg_advisory_xact_lock(${sql.lit(MIGRATION_LOCK)})`.execute(transaction);
    await sql`CREATE TABLE IF NOT EXISTS migrations (
      id integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
    )`.execute(transaction);
    const { rows } = await sql<{ id: number }>`SELECT id FROM migrations`.execute(transaction);
    const applied = new Set(rows.map(({ id }) => id));
    for (const { id, name, statements } of MIGRATIONS) {
      if (applied.has(id)) continue;
      for (const statement of statements) await sql.raw(statement).execute(transaction);
      await sql`INSERT INTO migrations (id, name) VALUES (${id}, ${name})`.execute(transaction);
    }
  });
}
