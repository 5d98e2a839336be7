/**
 * API keys. What is kept is the SHA-256 of a key: it has 160 random bits, so there is nothing to guess that a slow
 * hash would make slower, and a slow one would cost every request.
 */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { WrennError } from '@wrenn/protocol';
import type { Kysely, Selectable } from 'kysely';
import { z } from 'zod';
import { createMemory } from './memory.ts';
import type { Database } from './schema.ts';

const SECRET_BYTES = 20;
const KEY_PATTERN = /^e2b_[0-9a-f]{40}$/;
/** `e2b_` and six digits: enough to recognise a key, nothing towards guessing it. */
const PREFIX_CHARS = 10;

/** What a key has in place of the configuration's limits. */
export const keyLimitOverridesSchema = z.strictObject({
  maxSandboxes: z.int().min(0).max(100_000).optional(),
  maxPausedSandboxes: z.int().min(0).max(100_000).optional(),
  maxSnapshots: z.int().min(0).max(100_000).optional(),
  createsPerMinute: z.int().min(1).max(100_000).optional(),
  maxVcpus: z.int().min(1).max(1024).optional(),
  maxMemoryMib: z
    .int()
    .min(64)
    .max(16 * 1024 * 1024)
    .optional(),
});
export type KeyLimitOverrides = z.infer<typeof keyLimitOverridesSchema>;

export interface ApiKey {
  readonly id: string;
  readonly teamId: string;
  readonly name: string;
  readonly prefix: string;
  /** May manage keys and what all teams share. */
  readonly admin: boolean;
  readonly limits: KeyLimitOverrides;
  readonly createdAt: Date;
  readonly expiresAt: Date | undefined;
  readonly revokedAt: Date | undefined;
  readonly lastUsedAt: Date | undefined;
}

export interface NewApiKey {
  readonly name: string;
  /** Whose sandboxes it sees; absent for a team of its own. */
  readonly teamId?: string | undefined;
  readonly admin?: boolean | undefined;
  readonly limits?: KeyLimitOverrides | undefined;
  readonly expiresAt?: Date | undefined;
}

export interface KeyStore {
  /** `secret` is the key itself: shown now and never again. */
  create(key: NewApiKey): Promise<{ readonly key: ApiKey; readonly secret: string }>;
  /** The key that this is, unless it has expired, was revoked or never was one. */
  authenticate(secret: string): Promise<ApiKey | undefined>;
  /** Whether it is still good or not. */
  get(id: string): Promise<ApiKey | undefined>;
  /** Newest first, revoked ones included. */
  list(): Promise<readonly ApiKey[]>;
  rename(id: string, name: string): Promise<ApiKey>;
  /** Idempotent; throws `api_key_not_found`. */
  revoke(id: string): Promise<void>;
  markUsed(id: string, at: Date): Promise<void>;
}

/**
 * `isExclusive`: nobody else changes these tables, so that what was read of a key is true until it is changed here. On
 * a server others may revoke it, and every request asks.
 */
export function createKeyStore(db: Kysely<Database>, isExclusive: boolean): KeyStore {
  const remembered = createMemory<ApiKey>(isExclusive);
  const find = (hash: string): Promise<ApiKey | undefined> =>
    remembered.get(hash, async () => {
      const row = await db.selectFrom('api_keys').selectAll().where('hash', '=', hash).executeTakeFirst();
      return row === undefined ? undefined : toKey(row);
    });
  const update = async (id: string, change: { name?: string; revoked_at?: Date; last_used_at?: Date }) => {
    const row = await db
      .updateTable('api_keys')
      .set(change)
      .where('id', '=', id)
      .returningAll()
      .executeTakeFirst();
    if (row === undefined)
      throw new WrennError('api_key_not_found', 'There is no such API key.', { field: 'id' });
    return row;
  };
  const change = (id: string, to: { name?: string; revoked_at?: Date }): Promise<ApiKey> =>
    remembered.whileChanging(async () => {
      const row = await update(id, to);
      remembered.forget(row.hash);
      return toKey(row);
    });
  return {
    create: async ({ name, teamId, admin = false, limits = {}, expiresAt }) => {
      const secret = `e2b_${randomBytes(SECRET_BYTES).toString('hex')}`;
      const row = await db
        .insertInto('api_keys')
        .values({
          id: randomUUID(),
          team_id: teamId ?? randomUUID(),
          name,
          hash: hashOf(secret),
          prefix: secret.slice(0, PREFIX_CHARS),
          admin,
          limits: JSON.stringify(limits),
          created_at: new Date(),
          expires_at: expiresAt ?? null,
        })
        .returningAll()
        .executeTakeFirstOrThrow();
      return { key: toKey(row), secret };
    },
    authenticate: async (secret) => {
      if (!KEY_PATTERN.test(secret)) return undefined;
      const key = await find(hashOf(secret));
      return key !== undefined && isGood(key) ? key : undefined;
    },
    get: async (id) => {
      const row = await db.selectFrom('api_keys').selectAll().where('id', '=', id).executeTakeFirst();
      return row === undefined ? undefined : toKey(row);
    },
    list: async () => {
      const rows = await db.selectFrom('api_keys').selectAll().orderBy('created_at', 'desc').execute();
      return rows.map(toKey);
    },
    rename: (id, name) => change(id, { name }),
    revoke: async (id) => void (await change(id, { revoked_at: new Date() })),
    markUsed: (id, at) =>
      remembered.whileChanging(async () => {
        const { hash } = await update(id, { last_used_at: at });
        remembered.change(hash, (key) => ({ ...key, lastUsedAt: at }));
      }),
  };
}

/** Neither revoked nor expired. */
export function isGood({ revokedAt, expiresAt }: ApiKey): boolean {
  return revokedAt === undefined && (expiresAt === undefined || expiresAt.getTime() > Date.now());
}

function hashOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}

function toKey(row: Selectable<Database['api_keys']>): ApiKey {
  return {
    id: row.id,
    teamId: row.team_id,
    name: row.name,
    prefix: row.prefix,
    admin: row.admin,
    limits: keyLimitOverridesSchema.parse(row.limits),
    createdAt: row.created_at,
    expiresAt: row.expires_at ?? undefined,
    revokedAt: row.revoked_at ?? undefined,
    lastUsedAt: row.last_used_at ?? undefined,
  };
}
