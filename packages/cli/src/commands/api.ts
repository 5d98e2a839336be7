/** `wrenn api`: the API and the edge in the foreground, without privileges. */
import { chownSync, mkdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import {
  type ApiConfig,
  apiConfigFromEnv,
  createApi,
  createApiLogger,
  openStore,
  type Store,
} from '@wrenn/api';
import { WrennError } from '@wrenn/protocol';

export const API_CONFIG_FILE = '/etc/wrenn/api.json';
/** Who the API is when root starts it: a user of its own, which nothing else uses. */
export const API_UID = 1_899_999_999;

export interface ApiOptions {
  readonly newKey?: string;
}

export async function runApi(options: ApiOptions): Promise<void> {
  const config = loadApiConfig();
  dropPrivileges(config);
  const log = createApiLogger(config.logLevel);
  const store = await openStore(config.store);
  const key = await keyToTell(store, options.newKey);
  const api = createApi(config, { store, log, version: '0.1.0' });
  const ended = new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
  try {
    const { host, port } = await api.listen();
    process.stdout.write(exportsOf(config, `http://${host}:${port}`, key));
    await ended;
  } finally {
    await api.close();
  }
}

/** From the file that WRENN_API_CONFIG names, or /etc/wrenn/api.json if it is there, and the environment over it. */
function loadApiConfig(): ApiConfig {
  const named = process.env.WRENN_API_CONFIG;
  const file = named ?? API_CONFIG_FILE;
  let settings: object = {};
  try {
    const read: unknown = JSON.parse(readFileSync(file, 'utf8'));
    settings = typeof read === 'object' && read !== null ? read : {};
  } catch (cause) {
    const isMissing = cause instanceof Error && 'code' in cause && cause.code === 'ENOENT';
    if (!isMissing || named !== undefined) {
      throw new WrennError('invalid_config', `${file} cannot be read as JSON.`, { cause });
    }
  }
  return apiConfigFromEnv(settings, process.env);
}

/** Before anything is opened. What it keeps is its own from then on. */
function dropPrivileges({ store }: ApiConfig): void {
  if (process.geteuid?.() !== 0) return;
  if (store.databaseUrl === undefined) {
    const directory = dirname(store.dataDir);
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    chownSync(directory, API_UID, API_UID);
  }
  process.setgroups?.([]);
  process.setgid?.(API_UID);
  process.setuid?.(API_UID);
}

/** The first one is made by itself. */
async function keyToTell(store: Store, name: string | undefined): Promise<string | undefined> {
  if (name === undefined && (await store.keys.list()).length > 0) return undefined;
  return (await store.keys.create({ name: name ?? 'first', admin: true })).secret;
}

function exportsOf({ domain }: ApiConfig, url: string, key: string | undefined): string {
  return [
    `export E2B_API_URL=${url}`,
    `export E2B_SANDBOX_URL=${url}`,
    ...(domain === undefined
      ? []
      : [`# or, where names of ${domain} lead here:`, `# export E2B_DOMAIN=${domain}`]),
    key === undefined
      ? '# E2B_API_KEY was told when it was made; --new-key NAME makes another'
      : `export E2B_API_KEY=${key}`,
    '',
  ].join('\n');
}
