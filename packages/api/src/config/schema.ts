/** Everything that can be configured of the API and the edge. Unknown fields are refused. */
import { isAbsolute } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';

const count = (min: number, max: number) => z.int().min(min).max(max);
const path = z
  .string()
  .max(1024)
  .refine((text) => isAbsolute(text) && !text.includes('\0'), 'must be an absolute path');
const port = count(0, 65_535);
const host = z.union([z.ipv4(), z.ipv6(), z.literal('localhost')]);
const DAY_S = 24 * 60 * 60;
const domain = z
  .string()
  .max(200)
  .regex(
    /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:\d{1,5})?$/,
    'must be a host name, with a port if need be',
  );

/** What one key may have, unless the key says otherwise. */
export const keyLimitsSchema = z.strictObject({
  /** Sandboxes that are not paused, at once. */
  maxSandboxes: count(0, 100_000).default(100),
  /** Sandboxes that are paused, at once. What pauses because its time is over is never refused: see places.ts. */
  maxPausedSandboxes: count(0, 100_000).default(1000),
  maxSnapshots: count(0, 100_000).default(1000),
  createsPerMinute: count(1, 100_000).default(600),
  maxVcpus: count(1, 1024).default(8),
  maxMemoryMib: count(64, 16 * 1024 * 1024).default(8192),
  /** Requests that wait for their answer, at once. */
  maxRequestsInFlight: count(1, 10_000).default(512),
  /** Of what those have sent, all together; one that is larger may be alone. */
  maxBodyMibInFlight: count(1, 16 * 1024).default(32),
  /** Of answers that have not been taken, all together; one that is larger may be alone. */
  maxAnswerMibInFlight: count(1, 16 * 1024).default(64),
});
export type KeyLimits = z.infer<typeof keyLimitsSchema>;

const requestsSchema = z.strictObject({
  bodyMaxBytes: count(1024, 64 * 1024 * 1024).default(1024 * 1024),
  /** Of all keys together; one that is larger may be alone. */
  maxBodyMibInFlight: count(1, 16 * 1024).default(128),
  headersTimeoutMs: count(100, 600_000).default(10_000),
  /** From its first byte to its last. */
  requestTimeoutMs: count(100, 600_000).default(30_000),
  keepAliveTimeoutMs: count(100, 600_000).default(65_000),
  maxConnections: count(1, 100_000).default(4096),
  /** That one address may have open, or one network of IPv6: who is behind a proxy or a NAT shares them. */
  maxConnectionsPerAddress: count(1, 100_000).default(2048),
  /** That one address may try. */
  wrongKeysPerMinute: count(1, 1_000_000).default(600),
});

const agentSchema = z.strictObject({
  socketPath: path.default('/var/lib/wrenn/agent.sock'),
  /** For what the agent answers from its memory. */
  callTimeoutMs: count(100, 600_000).default(10_000),
  /** For what starts, stops or writes a microVM. */
  longCallTimeoutMs: count(100, 3_600_000).default(180_000),
});

const sandboxesSchema = z.strictObject({
  maxTimeoutS: count(1, 365 * DAY_S).default(30 * DAY_S),
  maxMetadataEntries: count(0, 60).default(50),
  maxMetadataBytes: count(0, 60 * 1024).default(32 * 1024),
  maxForks: count(1, 1000).default(50),
  /** How often the agent is asked which sandboxes there are. */
  watchIntervalMs: count(50, 60_000).default(1000),
  metricsIntervalMs: count(50, 600_000).default(5000),
  /** Of the edge's requests that wake sandboxes; what comes on top is refused. */
  maxResumesInFlight: count(1, 1000).default(16),
  resumeTimeoutMs: count(100, 600_000).default(60_000),
});

/**
 * Of the edge and the API: certificate (with those between it and the authority) and key, PEM, read again when they
 * change; or "development", for a certificate of an authority that is made on the spot.
 */
const tlsSchema = z.union(
  [
    z.literal('development'),
    z.strictObject({ certFile: path, keyFile: path, watchIntervalMs: count(10, 3_600_000).default(5000) }),
  ],
  'must be "development", or absolute paths as certFile and keyFile',
);

export const apiConfigSchema = z.strictObject({
  listen: z.strictObject({ host: host.default('127.0.0.1'), port: port.default(3000) }).prefault({}),
  /** Of the sandboxes' hosts, `<port>-<id>.<domain>`; told to SDKs. Without it they use headers. */
  domain: domain.optional(),
  agent: agentSchema.prefault({}),
  store: z
    .strictObject({
      /** A PostgreSQL server; without it the store is embedded and lies in `dataDir`. */
      databaseUrl: z
        .string()
        .max(2048)
        .regex(/^postgres(ql)?:\/\//, 'must begin with postgres://')
        .optional(),
      dataDir: path.default('/var/lib/wrenn/api/store'),
      maxConnections: count(1, 100).default(10),
    })
    .prefault({}),
  keyLimits: keyLimitsSchema.prefault({}),
  requests: requestsSchema.prefault({}),
  sandboxes: sandboxesSchema.prefault({}),
  tls: tlsSchema.optional(),
  logLevel: z.enum(['debug', 'info', 'warn', 'error', 'silent']).default('info'),
});
export type ApiConfig = z.infer<typeof apiConfigSchema>;
export type ApiConfigInput = z.input<typeof apiConfigSchema>;

/** Checks settings and fills in the defaults. Throws `invalid_config` with the field at fault. */
export function parseApiConfig(settings: unknown): ApiConfig {
  const parsed = apiConfigSchema.safeParse(settings);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field = issue?.path.join('.') ?? '';
  throw new WrennError(
    'invalid_config',
    `The API's configuration is wrong:${field === '' ? '' : ` \`${field}\``} ${issue?.message ?? ''}.`,
    {
      hint: 'packages/api/src/config/schema.ts lists every field, with its unit and its limits.',
      ...(field === '' ? {} : { field }),
      cause: parsed.error,
    },
  );
}

/** As `parseApiConfig`, with DATABASE_URL, WRENN_SOCKET and E2B_DOMAIN of the environment above the settings. */
export function apiConfigFromEnv(
  settings: ApiConfigInput,
  env: Readonly<Record<string, string | undefined>>,
): ApiConfig {
  const { DATABASE_URL: databaseUrl, WRENN_SOCKET: socketPath, E2B_DOMAIN: domainName } = env;
  return parseApiConfig({
    ...settings,
    ...(domainName ? { domain: domainName } : {}),
    store: { ...settings.store, ...(databaseUrl ? { databaseUrl } : {}) },
    agent: { ...settings.agent, ...(socketPath ? { socketPath } : {}) },
  });
}
