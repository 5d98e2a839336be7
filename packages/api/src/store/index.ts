/** The API's truth: keys, owners, names. One interface over PostgreSQL, embedded or a server's. */
import type { WrennError } from '@wrenn/protocol';
import { sql } from 'kysely';
import type { ApiConfig } from '../config/schema.ts';
import { createKeyStore, type KeyStore } from './keys.ts';
import { createMemory } from './memory.ts';
import { type OpenDatabase, openDatabase } from './open.ts';
import { createSandboxStore, type SandboxStore } from './sandboxes.ts';
import {
  createSnapshotStore,
  createTemplateStore,
  type Meanings,
  type SnapshotStore,
  type TemplateStore,
} from './templates.ts';

export interface Store {
  readonly keys: KeyStore;
  readonly sandboxes: SandboxStore;
  readonly snapshots: SnapshotStore;
  readonly templates: TemplateStore;
  /**
   * For an API that serves, before it changes anything: throws `store_in_use` where another one has the database. Held
   * until it is closed; `onLost` is called should another have taken it while the server was away.
   */
  claim(onLost: (error: WrennError) => void): Promise<void>;
  /** Throws where the database does not answer. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

/** Throws `store_in_use` where another process has the embedded one, `store_unavailable` where none answers. */
export async function openStore(config: ApiConfig['store']): Promise<Store> {
  return createStore(await openDatabase(config));
}

export function createStore({ db, isExclusive, claim, close }: OpenDatabase): Store {
  const meanings = createMemory<Meanings>(isExclusive);
  return {
    keys: createKeyStore(db, isExclusive),
    sandboxes: createSandboxStore(db, isExclusive),
    snapshots: createSnapshotStore(db, meanings),
    templates: createTemplateStore(db, meanings),
    ping: async () => void (await sql`SELECT 1`.execute(db)),
    claim,
    close,
  };
}
