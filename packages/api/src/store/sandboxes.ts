/** What the API knows of sandboxes and the agent does not: whose they are, and how the edge treats them. */
import type { Kysely, QueryCreator, Selectable } from 'kysely';
import { z } from 'zod';
import { createMemory } from './memory.ts';
import type { Database } from './schema.ts';

/** As the owner set it; what a field means is said in rest/schemas. */
export const networkSettingsSchema = z.strictObject({
  allowInternetAccess: z.boolean().optional(),
  allowOut: z.array(z.string()).optional(),
  denyOut: z.array(z.string()).optional(),
  allowPublicTraffic: z.boolean().optional(),
  maskRequestHost: z.string().optional(),
});
export type NetworkSettings = z.infer<typeof networkSettingsSchema>;

export interface SandboxRecord {
  readonly id: string;
  /** Of creation: later ones have higher numbers. */
  readonly number: bigint;
  readonly teamId: string;
  readonly keyId: string;
  /** As it was asked for. */
  readonly template: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly trafficToken: string | undefined;
  readonly network: NetworkSettings;
  readonly autoPause: boolean;
  readonly autoResume: boolean;
  /** That was asked for last; what a resume by traffic gives again. */
  readonly timeoutMs: number;
  readonly createdAt: Date;
  readonly endsAt: Date;
}

export type NewSandboxRecord = Omit<SandboxRecord, 'number'>;

export interface SandboxStore {
  /** Notes that a sandbox is about to be made, before the agent is asked. */
  begin(creationId: string, teamId: string): Promise<void>;
  /** Keeps what came of it, and counts a use of the template, together; nothing where the creation failed. */
  finish(creationId: string, records: readonly NewSandboxRecord[], template?: string): Promise<void>;
  /** Those that were begun and not finished. */
  unfinished(): Promise<readonly string[]>;
  get(id: string): Promise<SandboxRecord | undefined>;
  /** Those that have not ended, of one team or of all. */
  live(teamId?: string): Promise<readonly SandboxRecord[]>;
  /** How many of a key's have not ended. */
  count(teamId: string, keyId: string): Promise<number>;
  setTimeout(id: string, timeoutMs: number, endsAt: Date): Promise<void>;
  setNetwork(id: string, network: NetworkSettings): Promise<void>;
  markEnded(ids: readonly string[], at: Date): Promise<void>;
}

/** Each has up to some 50 KiB that its owner has chosen. */
const MAX_RECORDS = 1000;

export function createSandboxStore(db: Kysely<Database>, isExclusive: boolean): SandboxStore {
  /** Of each key's, how many have not ended: asked for by every creation. */
  const counts = createMemory<number>(isExclusive);
  /** Asked for by every request to one. */
  const records = createMemory<SandboxRecord>(isExclusive, MAX_RECORDS);
  const changing = (ids: readonly string[], write: () => Promise<unknown>): Promise<void> =>
    records.whileChanging(async () => {
      await write();
      for (const id of ids) records.forget(id);
    });
  const keep = async (
    id: string,
    made: readonly NewSandboxRecord[],
    template: string | undefined,
  ): Promise<void> => {
    const rows = made.map(toRow);
    // One statement: one way to the database and back, and all of it or nothing.
    const finish =
      template === undefined
        ? db
            .with('kept', (query) => query.insertInto('sandboxes').values(rows))
            .deleteFrom('creations')
            .where('id', '=', id)
        : db
            .with('counted', (query) => countUse(query, template))
            .with('kept', (query) => query.insertInto('sandboxes').values(rows))
            .deleteFrom('creations')
            .where('id', '=', id);
    await finish.execute();
  };
  return {
    begin: async (id, teamId) => {
      await db.insertInto('creations').values({ id, team_id: teamId, created_at: new Date() }).execute();
    },
    finish: async (id, made, template) => {
      if (made.length === 0) {
        await db.deleteFrom('creations').where('id', '=', id).execute();
        return;
      }
      await counts.whileChanging(async () => {
        await keep(id, made, template);
        for (const { teamId, keyId } of made) counts.change(countKey(teamId, keyId), (count) => count + 1);
      });
    },
    unfinished: async () => {
      const rows = await db.selectFrom('creations').select('id').execute();
      return rows.map(({ id }) => id);
    },
    get: (id) =>
      records.get(id, async () => {
        const row = await db
          .selectFrom('sandboxes')
          .selectAll()
          .where('id', '=', id)
          .where('ended_at', 'is', null)
          .executeTakeFirst();
        return row === undefined ? undefined : toRecord(row);
      }),
    live: async (teamId) => {
      let query = db.selectFrom('sandboxes').selectAll().where('ended_at', 'is', null);
      if (teamId !== undefined) query = query.where('team_id', '=', teamId);
      return (await query.orderBy('number', 'desc').execute()).map(toRecord);
    },
    count: (teamId, keyId) =>
      counts.get(countKey(teamId, keyId), async () => {
        const { count } = await db
          .selectFrom('sandboxes')
          .select(({ fn }) => fn.countAll<string>().as('count'))
          .where('team_id', '=', teamId)
          .where('key_id', '=', keyId)
          .where('ended_at', 'is', null)
          .executeTakeFirstOrThrow();
        return Number(count);
      }),
    setTimeout: (id, timeoutMs, endsAt) => {
      const change = { timeout_ms: String(timeoutMs), ends_at: endsAt };
      return changing([id], () => db.updateTable('sandboxes').set(change).where('id', '=', id).execute());
    },
    setNetwork: (id, network) => {
      const change = { network: JSON.stringify(network) };
      return changing([id], () => db.updateTable('sandboxes').set(change).where('id', '=', id).execute());
    },
    markEnded: async (ids, at) => {
      if (ids.length === 0) return;
      await changing(ids, () =>
        counts.whileChanging(async () => {
          const ended = await db
            .updateTable('sandboxes')
            .set({ ended_at: at })
            .where('id', 'in', ids)
            .where('ended_at', 'is', null)
            .returning(['team_id', 'key_id'])
            .execute();
          for (const row of ended) counts.change(countKey(row.team_id, row.key_id), (count) => count - 1);
        }),
      );
    },
  };
}

const countKey = (teamId: string, keyId: string): string => JSON.stringify([teamId, keyId]);

function countUse(query: QueryCreator<Database>, template: string) {
  const now = new Date();
  return query
    .insertInto('templates')
    .values({ name: template, public: true, spawn_count: '1', last_spawned_at: now, updated_at: now })
    .onConflict((conflict) =>
      conflict.column('name').doUpdateSet(({ eb, ref }) => ({
        spawn_count: eb(ref('templates.spawn_count'), '+', '1'),
        last_spawned_at: now,
      })),
    );
}

function toRow(record: NewSandboxRecord) {
  return {
    id: record.id,
    team_id: record.teamId,
    key_id: record.keyId,
    template: record.template,
    metadata: JSON.stringify(record.metadata),
    traffic_token: record.trafficToken ?? null,
    network: JSON.stringify(record.network),
    auto_pause: record.autoPause,
    auto_resume: record.autoResume,
    timeout_ms: String(record.timeoutMs),
    created_at: record.createdAt,
    ends_at: record.endsAt,
  };
}

function toRecord(row: Selectable<Database['sandboxes']>): SandboxRecord {
  return {
    id: row.id,
    number: BigInt(row.number),
    teamId: row.team_id,
    keyId: row.key_id,
    template: row.template,
    metadata: row.metadata,
    trafficToken: row.traffic_token ?? undefined,
    network: networkSettingsSchema.parse(row.network),
    autoPause: row.auto_pause,
    autoResume: row.auto_resume,
    timeoutMs: Number(row.timeout_ms),
    createdAt: row.created_at,
    endsAt: row.ends_at,
  };
}
