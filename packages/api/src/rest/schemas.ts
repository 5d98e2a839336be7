/** The bodies of requests and answers, as the E2B SDKs know them. Names are E2B's; required fields are always sent. */
import { z } from 'zod';
import { keyLimitOverridesSchema } from '../store/keys.ts';
import { body, dateTime, envs, metadata, moment, seconds, text, unsupported } from './fields.ts';

const int = z.int().min(-(2 ** 53) + 1);
const names = z.record(z.string(), z.string());

export const errorSchema = z
  .object({ code: z.int(), message: z.string() })
  .meta({ id: 'Error', description: 'Every error has this form.' });

// --- requests

const destinations = z.array(text(256).min(1)).max(256);
const egress = {
  allowOut: destinations
    .nullish()
    .describe(
      'Addresses, networks as 10.0.0.0/8, and, where denyOut has 0.0.0.0/0, names. Goes before denyOut.',
    ),
  denyOut: destinations.nullish().describe('Addresses and networks.'),
  egressProxy: unsupported,
  rules: unsupported,
};

const networkConfig = body({
  ...egress,
  allowPublicTraffic: z
    .boolean()
    .nullish()
    .describe('Whether its ports are open to who has no e2b-traffic-access-token.'),
  maskRequestHost: text(255)
    .regex(
      /^[A-Za-z0-9.\-:_[\]]*(\$\{PORT\})?[A-Za-z0-9.\-:_[\]]*$/,
      'must be a host, with a placeholder for its port if need be',
    )
    .nullish()
    // biome-ignore lint/suspicious/noTemplateCurlyInString: a placeholder of E2B's
    .describe('The Host that its servers see; ${PORT} stands for the port.'),
  httpsPorts: unsupported,
});

const internet = z.boolean().nullish().describe('Whether it reaches anything but what is allowed.');
export const networkUpdateBody = body({ ...egress, allow_internet_access: internet });

const newSandbox = {
  templateID: text(256).min(1).describe('A template by its name, an alias or name:tag; or a snapshot.'),
  metadata: metadata.nullish().describe('What lists can be filtered by.'),
  envVars: envs.nullish().describe('Of every command.'),
  allow_internet_access: internet,
  network: networkConfig.nullish(),
  autoPause: z.boolean().nullish().describe('Whether it pauses when its time is over, instead of ending.'),
  autoPauseMemory: z.literal(true, 'only true is supported: sandboxes pause with their memory').nullish(),
  autoResume: body({ enabled: z.boolean() }).nullish().describe('Whether traffic wakes it.'),
  /** Wrenn's own: other sizes than the template's. */
  cpuCount: z.int().min(1).max(1024).nullish().describe('Virtual CPUs, where not those of the template.'),
  memoryMB: z
    .int()
    .min(64)
    .max(16 * 1024 * 1024)
    .nullish()
    .describe('MiB, where not those of the template.'),
  iam: unsupported,
  mcp: unsupported,
  volumeMounts: unsupported,
};
const secure = z.boolean().nullish().describe('Changes nothing: the guest agent always wants its token.');
const life = (defaultS: number) => seconds.default(defaultS).describe('Seconds from now.');
export const newSandboxBody = body({ ...newSandbox, timeout: life(15), secure });
export const newSandboxV2Body = body({ ...newSandbox, timeout: life(300), secure });
export type NewSandboxBody = z.output<typeof newSandboxBody>;

const memoryKept = z.literal(true, 'only true is supported: sandboxes pause with their memory').nullish();
const extended = 'Seconds from now; it never ends sooner than it would have.';
export const connectBody = body({ timeout: seconds.describe(extended), memory: memoryKept });
export const connectV2Body = body({
  timeout: seconds.default(300).describe(extended),
  memory: memoryKept,
});
export const resumeBody = body({
  timeout: life(15),
  memory: memoryKept,
  /** Older SDKs say again what was settled at the creation. */
  autoPause: z.boolean().nullish(),
});
export const pauseBody = body({ memory: memoryKept });
export const timeoutBody = body({ timeout: seconds.describe('Seconds from now.') });
export const refreshBody = body({
  duration: z.int().min(0).max(3600).default(15).describe(extended),
});
export const forkBody = body({ count: z.int().min(1).max(1000).default(1), timeout: life(15) });

const NAME = /^([a-z0-9][a-z0-9_-]{0,63}\/)?[a-z0-9][a-z0-9_.-]{0,127}$/;
const NAME_WITH_TAG =
  /^([a-z0-9][a-z0-9_-]{0,63}\/)?[a-z0-9][a-z0-9_.-]{0,127}(:[A-Za-z0-9][A-Za-z0-9_.-]{0,127})?$/;
const TAG = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
const tags = z.array(z.string().regex(TAG, 'must be letters, digits, _, . and -')).min(1).max(64);
export const snapshotBody = body({
  name: z.string().regex(NAME_WITH_TAG, 'must be a name, as my-snapshot:v1').nullish(),
});
export const assignTagsBody = body({ target: z.string().regex(NAME_WITH_TAG, 'must be name:tag'), tags });
export const deleteTagsBody = body({ name: z.string().regex(NAME, 'must be a name'), tags });
export const templateUpdateBody = body({ public: z.boolean().nullish() });
export const newKeyBody = body({
  name: text(128).min(1),
  expiresAt: moment.nullish(),
  teamID: text(64).min(1).nullish().describe('Whose sandboxes it sees; absent for a team of its own.'),
  admin: z.boolean().nullish().describe('Whether it manages keys and templates, and reads /metrics.'),
  limits: keyLimitOverridesSchema.nullish().describe('Instead of those of the configuration.'),
});
export const renameKeyBody = body({ name: text(128).min(1) });

// --- answers

const state = z.enum(['running', 'paused']);
const volumeMounts = z.array(z.object({ name: z.string(), path: z.string() })).max(0);

export const sandboxSchema = z
  .object({
    sandboxID: z.string(),
    templateID: z.string(),
    clientID: z.string(),
    envdVersion: z.string(),
    envdAccessToken: z.string().describe('For its guest agent, as X-Access-Token.'),
    trafficAccessToken: z.string().nullable().describe('For its ports, where they are not public.'),
    domain: z.string().nullable().describe('Its ports are at <port>-<sandboxID>.<domain>.'),
    alias: z.string().optional(),
  })
  .meta({ id: 'Sandbox' });
export type SandboxAnswer = z.input<typeof sandboxSchema>;

const listed = {
  sandboxID: z.string(),
  templateID: z.string(),
  clientID: z.string(),
  alias: z.string().optional(),
  startedAt: dateTime,
  endAt: dateTime,
  state,
  cpuCount: int,
  memoryMB: int.describe('MiB.'),
  diskSizeMB: int.describe('MiB.'),
  envdVersion: z.string(),
  metadata: names,
  volumeMounts,
};
export const listedSandboxSchema = z.object(listed).meta({ id: 'ListedSandbox' });
export type ListedAnswer = z.input<typeof listedSandboxSchema>;

export const sandboxDetailSchema = z
  .object({
    ...listed,
    envdAccessToken: z.string(),
    domain: z.string().nullable(),
    allowInternetAccess: z.boolean().nullable(),
    network: z.object({
      allowOut: z.array(z.string()).optional(),
      denyOut: z.array(z.string()).optional(),
      allowPublicTraffic: z.boolean().optional(),
      maskRequestHost: z.string().optional(),
    }),
    lifecycle: z.object({ autoResume: z.boolean(), onTimeout: z.enum(['kill', 'pause']) }),
  })
  .meta({ id: 'SandboxDetail' });
export type DetailAnswer = z.input<typeof sandboxDetailSchema>;

export const metricSchema = z
  .object({
    timestamp: dateTime,
    timestampUnix: int.describe('Seconds since 1970.'),
    cpuCount: int,
    cpuUsedPct: z.number(),
    memUsed: int.describe('Bytes, as all below.'),
    memTotal: int,
    memCache: int,
    diskUsed: int,
    diskTotal: int,
  })
  .meta({ id: 'SandboxMetric' });
export const metricsOfManySchema = z.object({ sandboxes: z.record(z.string(), metricSchema) });

const logEntry = z
  .object({
    timestamp: dateTime,
    message: z.string(),
    level: z.enum(['debug', 'info', 'warn', 'error']),
    fields: names,
  })
  .meta({ id: 'SandboxLogEntry' });
export const logsSchema = z.object({
  logs: z.array(z.object({ timestamp: dateTime, line: z.string() })),
  logEntries: z.array(logEntry),
});
export const logsV2Schema = z.object({ logs: z.array(logEntry) });

export const snapshotSchema = z
  .object({ snapshotID: z.string(), names: z.array(z.string()) })
  .meta({ id: 'Snapshot' });
export const forkResultSchema = z.object({
  sandbox: sandboxSchema.optional(),
  error: errorSchema.optional(),
});

const buildStatus = z.enum(['building', 'waiting', 'ready', 'error']);
const templateCommon = {
  templateID: z.string(),
  aliases: z.array(z.string()),
  names: z.array(z.string()),
  public: z.boolean(),
  createdAt: dateTime,
  updatedAt: dateTime,
  lastSpawnedAt: dateTime.nullable(),
  spawnCount: int,
};
export const templateSchema = z
  .object({
    ...templateCommon,
    buildID: z.uuid(),
    buildCount: int,
    buildStatus,
    cpuCount: int,
    memoryMB: int,
    diskSizeMB: int,
    envdVersion: z.string(),
    createdBy: z.null(),
  })
  .meta({ id: 'Template' });
export const templateDetailSchema = z
  .object({
    ...templateCommon,
    builds: z.array(
      z.object({
        buildID: z.uuid(),
        status: buildStatus,
        createdAt: dateTime,
        updatedAt: dateTime,
        finishedAt: dateTime,
        cpuCount: int,
        memoryMB: int,
        diskSizeMB: int,
        envdVersion: z.string(),
      }),
    ),
  })
  .meta({ id: 'TemplateWithBuilds' });
export const templateUpdateSchema = z.object({ names: z.array(z.string()) });
export const aliasSchema = z.object({ templateID: z.string(), public: z.boolean() });
export const assignedTagsSchema = z.object({ buildID: z.uuid(), tags: z.array(z.string()) });
export const tagSchema = z.object({ tag: z.string(), buildID: z.uuid(), createdAt: dateTime });

export const teamSchema = z.object({
  teamID: z.string(),
  name: z.string(),
  apiKey: z.string(),
  isDefault: z.boolean(),
});

const keyCommon = {
  id: z.uuid(),
  name: z.string(),
  teamID: z.string(),
  admin: z.boolean(),
  mask: z.object({
    prefix: z.string(),
    valueLength: int,
    maskedValuePrefix: z.string(),
    maskedValueSuffix: z.string(),
  }),
  limits: z.record(z.string(), int),
  createdAt: dateTime,
  createdBy: z.null(),
  expiresAt: dateTime.nullable(),
  revokedAt: dateTime.nullable(),
  lastUsed: dateTime.nullable(),
};
export const keySchema = z.object(keyCommon).meta({ id: 'ApiKey' });
export const createdKeySchema = z
  .object({ ...keyCommon, key: z.string().regex(/^e2b_[0-9a-f]+$/) })
  .meta({ id: 'CreatedApiKey', description: 'The key itself is in this answer and in no other.' });
