/** Snapshots and their names; aliases, tags and use of templates. The images themselves are the agent's. */
import { type Kysely, sql } from 'kysely';
import type { Memory } from './memory.ts';
import type { Database } from './schema.ts';

export interface SnapshotRecord {
  readonly id: string;
  readonly number: bigint;
  readonly teamId: string;
  readonly sandboxId: string;
  readonly createdAt: Date;
  /** Each with its tag, as `mine:default`. */
  readonly names: readonly string[];
}

export interface SnapshotStore {
  /** A name that another snapshot of the team has goes over to this one. It counts for the key. */
  add(snapshot: Omit<SnapshotRecord, 'number'> & { readonly keyId: string }): Promise<void>;
  /** Of those that a key has made. */
  idsOf(keyId: string): Promise<readonly string[]>;
  get(teamId: string, id: string): Promise<SnapshotRecord | undefined>;
  byName(teamId: string, name: string): Promise<SnapshotRecord | undefined>;
  /** Newest first. */
  list(teamId: string): Promise<readonly SnapshotRecord[]>;
  remove(id: string): Promise<void>;
}

/** Of what names mean: all is forgotten with each change, of which there are few. */
const changing = (meanings: Memory<Meanings>, write: () => Promise<unknown>): Promise<void> =>
  meanings.whileChanging(async () => {
    await write();
    meanings.forget();
  });

export function createSnapshotStore(db: Kysely<Database>, meanings: Memory<Meanings>): SnapshotStore {
  const list = async (teamId: string) => {
    const rows = await db
      .selectFrom('snapshots')
      .leftJoin('snapshot_names', 'snapshot_names.snapshot_id', 'snapshots.id')
      .selectAll('snapshots')
      .select('snapshot_names.name')
      .where('snapshots.team_id', '=', teamId)
      .orderBy('snapshots.number', 'desc')
      .orderBy('snapshot_names.name')
      .execute();
    const found = new Map<string, SnapshotRecord & { readonly names: string[] }>();
    for (const row of rows) {
      const record = found.get(row.id) ?? {
        id: row.id,
        number: BigInt(row.number),
        teamId: row.team_id,
        sandboxId: row.sandbox_id,
        createdAt: row.created_at,
        names: [],
      };
      if (row.name !== null) record.names.push(row.name);
      found.set(row.id, record);
    }
    return [...found.values()];
  };
  return {
    add: ({ id, teamId, keyId, sandboxId, createdAt, names }) =>
      changing(meanings, () =>
        db.transaction().execute(async (transaction) => {
          await transaction
            .insertInto('snapshots')
            .values({ id, team_id: teamId, key_id: keyId, sandbox_id: sandboxId, created_at: createdAt })
            .execute();
          for (const name of names) {
            await transaction
              .insertInto('snapshot_names')
              .values({ team_id: teamId, name, snapshot_id: id })
              .onConflict((conflict) =>
                conflict.columns(['team_id', 'name']).doUpdateSet({ snapshot_id: id }),
              )
              .execute();
          }
        }),
      ),
    idsOf: async (keyId) => {
      const rows = await db.selectFrom('snapshots').select('id').where('key_id', '=', keyId).execute();
      return rows.map(({ id }) => id);
    },
    get: async (teamId, id) => (await list(teamId)).find((snapshot) => snapshot.id === id),
    byName: async (teamId, name) => (await list(teamId)).find(({ names }) => names.includes(name)),
    list,
    remove: (id) => changing(meanings, () => db.deleteFrom('snapshots').where('id', '=', id).execute()),
  };
}

export interface TemplateUse {
  readonly public: boolean;
  readonly spawnCount: number;
  readonly lastSpawnedAt: Date | undefined;
  readonly updatedAt: Date | undefined;
}

export interface TemplateTag {
  readonly tag: string;
  readonly buildId: string;
  readonly createdAt: Date;
}

/** What a name may stand for. */
export interface Meanings {
  /** A snapshot of the team's, by its id or a name of it. */
  readonly snapshotId: string | undefined;
  /** The template that has it as an alias. */
  readonly aliasOf: string | undefined;
  /** Templates that not everybody may use. */
  readonly hidden: ReadonlySet<string>;
}

export interface TemplateStore {
  /** `tagged` is the name with its tag. */
  meanings(teamId: string, name: string, tagged: string): Promise<Meanings>;
  uses(): Promise<ReadonlyMap<string, TemplateUse>>;
  setPublic(name: string, isPublic: boolean): Promise<void>;
  aliases(): Promise<ReadonlyMap<string, string>>;
  setAlias(alias: string, template: string): Promise<void>;
  tags(template: string): Promise<readonly TemplateTag[]>;
  setTags(template: string, tags: readonly string[], buildId: string): Promise<void>;
  removeTags(template: string, tags: readonly string[]): Promise<number>;
  /** All that is known of it. */
  forget(template: string): Promise<void>;
}

export function createTemplateStore(db: Kysely<Database>, remembered: Memory<Meanings>): TemplateStore {
  const read = async (teamId: string, name: string, tagged: string): Promise<Meanings> => {
    const { rows } = await sql<{ snapshot_id: string | null; alias_of: string | null; hidden: string[] }>`
      SELECT
        coalesce(
          (SELECT id FROM snapshots WHERE team_id = ${teamId} AND id = ${name}),
          (SELECT snapshot_id FROM snapshot_names WHERE team_id = ${teamId} AND name = ${tagged})
        ) AS snapshot_id,
        (SELECT template FROM template_aliases WHERE alias = ${name}) AS alias_of,
        (SELECT coalesce(jsonb_agg(name), '[]') FROM templates WHERE NOT public) AS hidden
    `.execute(db);
    const [row] = rows;
    return {
      snapshotId: row?.snapshot_id ?? undefined,
      aliasOf: row?.alias_of ?? undefined,
      hidden: new Set(row?.hidden),
    };
  };
  return {
    meanings: (teamId, name, tagged) =>
      remembered.get(JSON.stringify([teamId, name, tagged]), () => read(teamId, name, tagged)),
    uses: async () => {
      const rows = await db.selectFrom('templates').selectAll().execute();
      return new Map(
        rows.map((row) => [
          row.name,
          {
            public: row.public,
            spawnCount: Number(row.spawn_count),
            lastSpawnedAt: row.last_spawned_at ?? undefined,
            updatedAt: row.updated_at,
          },
        ]),
      );
    },
    setPublic: (name, isPublic) => {
      const row = { public: isPublic, updated_at: new Date() };
      return changing(remembered, () =>
        db
          .insertInto('templates')
          .values({ name, spawn_count: '0', ...row })
          .onConflict((conflict) => conflict.column('name').doUpdateSet(row))
          .execute(),
      );
    },
    aliases: async () => {
      const rows = await db.selectFrom('template_aliases').selectAll().execute();
      return new Map(rows.map(({ alias, template }) => [alias, template]));
    },
    setAlias: (alias, template) =>
      changing(remembered, () =>
        db
          .insertInto('template_aliases')
          .values({ alias, template })
          .onConflict((conflict) => conflict.column('alias').doUpdateSet({ template }))
          .execute(),
      ),
    tags: async (template) => {
      const rows = await db
        .selectFrom('template_tags')
        .selectAll()
        .where('template', '=', template)
        .orderBy('tag')
        .execute();
      return rows.map(({ tag, build_id: buildId, created_at: createdAt }) => ({ tag, buildId, createdAt }));
    },
    setTags: async (template, tags, buildId) => {
      const row = { build_id: buildId, created_at: new Date() };
      await db
        .insertInto('template_tags')
        .values(tags.map((tag) => ({ template, tag, ...row })))
        .onConflict((conflict) => conflict.columns(['template', 'tag']).doUpdateSet(row))
        .execute();
    },
    removeTags: async (template, tags) => {
      const { numDeletedRows } = await db
        .deleteFrom('template_tags')
        .where('template', '=', template)
        .where('tag', 'in', tags)
        .executeTakeFirst();
      return Number(numDeletedRows);
    },
    forget: (template) =>
      changing(remembered, () =>
        db.transaction().execute(async (transaction) => {
          await transaction.deleteFrom('template_tags').where('template', '=', template).execute();
          await transaction.deleteFrom('template_aliases').where('template', '=', template).execute();
          await transaction.deleteFrom('templates').where('name', '=', template).execute();
        }),
      ),
  };
}
