/** `wrenn api`: the API and the edge in the foreground, without privileges. */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { dirname } from 'node:path';
import {
  type ApiConfig,
  apiConfigFromEnv,
  type Certificates,
  createApi,
  createApiLogger,
  DEVELOPMENT_DOMAIN,
  openCertificates,
  openStore,
  type Store,
  tuneHeap,
} from '@wrenn/api';
import { WrennError } from '@wrenn/protocol';
import { API_UID, giveToApi } from '../api-user.ts';
import { endWithParent } from '../supervisor.ts';

export const API_CONFIG_FILE = '/etc/wrenn/api.json';

export interface ApiOptions {
  readonly newKey?: string;
  readonly domain?: string;
  readonly tls?: boolean;
  /** For a service, whose output is kept: a key is no business of the journal's. */
  readonly quiet?: boolean;
  /** Tell a key, and serve nothing. */
  readonly onlyKey?: boolean;
  /** End when stdin does. */
  readonly withParent?: boolean;
}

export async function runApi(options: ApiOptions): Promise<void> {
  if (options.withParent === true) endWithParent();
  tuneHeap();
  const config = loadApiConfig(options);
  dropPrivileges(config);
  const log = createApiLogger(config.logLevel);
  if (options.onlyKey === true) return await tellKey(config, options.newKey);
  const certificates = await openCertificates(config, log);
  const store = await openStore(config.store);
  const ended = new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
  process.on('SIGHUP', () => void certificates?.reload());
  const api = createApi(config, { store, log, version: '0.1.0', certificates });
  try {
    const { host, port } = await api.listen().catch((error: unknown) => {
      throw explainListen(error, config.listen);
    });
    if (options.quiet !== true) {
      const key = await keyToTell(store, options.newKey);
      process.stdout.write(exportsOf(config, { host, port, key, certificates }));
    }
    const failure = await Promise.race([ended, api.failed]);
    if (failure !== undefined) throw failure;
  } finally {
    await api.close();
  }
}

/** What kept an API from listening there, and what to do. */
export function explainListen(error: unknown, { host, port }: ApiConfig['listen']): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const at = `port ${port} of ${host}`;
  const [message, hint] =
    code === 'EADDRINUSE'
      ? [
          `Another program listens at ${at} already.`,
          `Is it another \`wrenn up\`? Else set listen.port in ${namedFile() ?? API_CONFIG_FILE}.`,
        ]
      : code === 'EACCES'
        ? [
            `Ports below 1024, as ${at}, are not for the API's user.`,
            'See docs/serve.md for how to serve port 443.',
          ]
        : code === 'EADDRNOTAVAIL'
          ? [`This machine has no address ${host}.`, 'listen.host is one of its own, or 0.0.0.0 for all.']
          : [];
  if (message === undefined || hint === undefined) return error;
  return new WrennError('invalid_config', message, { hint, field: 'listen', cause: error });
}

/** Settings of the file that WRENN_API_CONFIG names, or /etc/wrenn/api.json if it is there; environment and options above. */
export function loadApiConfig(options: ApiOptions): ApiConfig {
  const named = namedFile();
  const file = named ?? API_CONFIG_FILE;
  let settings: object = {};
  try {
    const read: unknown = JSON.parse(readFileSync(file, 'utf8'));
    if (typeof read !== 'object' || read === null || Array.isArray(read)) throw new TypeError('no object');
    settings = read;
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : undefined;
    if (code !== 'ENOENT' || named !== undefined) throw unreadable(file, code, cause);
  }
  const config = apiConfigFromEnv(
    { ...settings, ...(options.domain === undefined ? {} : { domain: options.domain }) },
    options.domain === undefined ? process.env : { ...process.env, E2B_DOMAIN: undefined },
  );
  const tls = config.tls ?? (options.tls === true ? 'development' : undefined);
  if (tls !== 'development') return config;
  // With the port: clients look at 443 otherwise.
  const { port } = config.listen;
  const domain = config.domain ?? (port === 443 ? DEVELOPMENT_DOMAIN : `${DEVELOPMENT_DOMAIN}:${port}`);
  return { ...config, tls, domain };
}

/** An empty name is none, as everywhere. */
function namedFile(): string | undefined {
  return process.env.WRENN_API_CONFIG || undefined;
}

function unreadable(file: string, code: string | undefined, cause: unknown): WrennError {
  const [message, hint] =
    code === 'ENOENT'
      ? [`${file} does not exist.`, 'WRENN_API_CONFIG names it; without the variable it may be absent.']
      : code !== undefined
        ? [`${file} cannot be read (${code}).`, 'It must be a file that whoever runs this may read.']
        : [`${file} is not a JSON object.`, 'docs/configuration.md has what may be in it.'];
  return new WrennError('invalid_config', message, { hint, cause });
}

/** Before anything is opened. What it keeps is its own from then on. */
function dropPrivileges({ store, tls }: ApiConfig): void {
  if (process.geteuid?.() !== 0) return;
  if (store.databaseUrl === undefined || tls === 'development') giveToApi(dirname(store.dataDir));
  process.setgroups?.([]);
  process.setgid?.(API_UID);
  process.setuid?.(API_UID);
}

async function tellKey(config: ApiConfig, name: string | undefined): Promise<void> {
  const store = await openStore(config.store);
  try {
    process.stdout.write(keyLine(await keyToTell(store, name)));
  } finally {
    await store.close();
  }
}

function keyLine(key: string | undefined): string {
  return key === undefined
    ? '# E2B_API_KEY was told when it was made; --new-key NAME makes another\n'
    : `export E2B_API_KEY=${key}\n`;
}

/** The first one is made by itself. */
async function keyToTell(store: Store, name: string | undefined): Promise<string | undefined> {
  if (name === undefined && (await store.keys.list()).length > 0) return undefined;
  return (await store.keys.create({ name: name ?? 'first', admin: true })).secret;
}

interface Told {
  readonly host: string;
  readonly port: number;
  readonly key: string | undefined;
  readonly certificates: Certificates | undefined;
}

/** Lines for a shell. */
function exportsOf(config: ApiConfig, { host, port, key, certificates }: Told): string {
  const authority = certificates?.authority;
  return [
    ...addressLines(config, host, port),
    keyLine(key).trimEnd(),
    ...(authority === undefined
      ? []
      : [
          `export NODE_EXTRA_CA_CERTS=${authority.certificateFile}`,
          `export SSL_CERT_FILE=${authority.bundleFile}`,
        ]),
    // SDKs speak to a domain by TLS alone.
    ...(config.domain === undefined || config.tls === undefined
      ? []
      : [
          `# or, instead of both URLs, where api.${config.domain} and all names beside it lead here:`,
          `# export E2B_DOMAIN=${config.domain}`,
        ]),
    '',
  ].join('\n');
}

/** Where clients find an API with this configuration. */
export function addressLines(
  config: ApiConfig,
  host: string = config.listen.host,
  port: number = config.listen.port,
): string[] {
  const url = urlOf(config, host, port);
  return [`export E2B_API_URL=${url}`, `export E2B_SANDBOX_URL=${url}`];
}

/** One that clients can reach, and that the certificate is for. */
function urlOf({ tls, domain }: ApiConfig, host: string, port: number): string {
  if (tls === undefined || tls === 'development' || domain === undefined) {
    const name = ['0.0.0.0', '::'].includes(host) ? 'localhost' : isIP(host) === 6 ? `[${host}]` : host;
    return `${tls === undefined ? 'http' : 'https'}://${name}:${port}`;
  }
  return `https://api.${domain}`;
}
