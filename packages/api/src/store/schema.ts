/** The tables as Kysely sees them; migrations.ts makes them. */
import type { ColumnType, Generated } from 'kysely';

/** Written as text or Date, read as Date by both drivers. */
type Timestamp = ColumnType<Date, Date, Date>;
type OptionalTimestamp = ColumnType<Date | null, Date | null | undefined, Date | null>;
/** Read as a value, written as its text: pg and PGlite differ in what they make of arrays and objects. */
type Json<T> = ColumnType<T, string, string>;

export interface Database {
  api_keys: {
    id: string;
    team_id: string;
    name: string;
    hash: string;
    prefix: string;
    admin: boolean;
    limits: Json<Readonly<Record<string, number>>>;
    created_at: Timestamp;
    expires_at: OptionalTimestamp;
    revoked_at: OptionalTimestamp;
    last_used_at: OptionalTimestamp;
  };
  /** Creations that were begun: what the agent made of one that has no sandbox here is nobody's. */
  creations: { id: string; team_id: string; created_at: Timestamp };
  sandboxes: {
    id: string;
    /** Order of creation, for pages: times may be equal. */
    number: Generated<string>;
    team_id: string;
    key_id: string;
    template: string;
    metadata: Json<Readonly<Record<string, string>>>;
    traffic_token: string | null;
    network: Json<unknown>;
    auto_pause: boolean;
    auto_resume: boolean;
    timeout_ms: string;
    created_at: Timestamp;
    ends_at: Timestamp;
    ended_at: OptionalTimestamp;
  };
  snapshots: {
    id: string;
    number: Generated<string>;
    team_id: string;
    sandbox_id: string;
    /** Who made it; null where nobody knows any more. */
    key_id: string | null;
    created_at: Timestamp;
  };
  snapshot_names: { team_id: string; name: string; snapshot_id: string };
  templates: {
    name: string;
    public: boolean;
    spawn_count: string;
    last_spawned_at: OptionalTimestamp;
    updated_at: Timestamp;
  };
  template_aliases: { alias: string; template: string };
  template_tags: { template: string; tag: string; build_id: string; created_at: Timestamp };
}
