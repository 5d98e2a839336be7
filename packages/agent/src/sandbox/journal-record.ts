/** What the journal says of a sandbox, and how it is read: also what agents before and after this one have written. */
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';

const whole = z.int().min(0);
const path = z.string().min(1).max(4096);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const processSchema = z.strictObject({ pid: z.int().min(1), startTime: z.string().regex(/^\d{1,20}$/) });
const handleSchema = z.strictObject({
  driver: z.enum(['qemu', 'firecracker']),
  ...processSchema.shape,
  wrappers: z.array(processSchema.readonly()).max(16).readonly(),
  runDir: z.string().min(1).max(108),
});

/** Absent in journals of agents that knew no limits. */
const rateLimitsSchema = z
  .strictObject({
    networkReceiveBytesPerSecond: whole.optional(),
    networkTransmitBytesPerSecond: whole.optional(),
    diskBytesPerSecond: whole.optional(),
    diskOperationsPerSecond: whole.optional(),
  })
  .default({});

/** What it may reach; absent in journals of agents that knew no such rules. */
const egressSchema = z
  .strictObject({
    allowInternetAccess: z.boolean(),
    allowOut: z.array(z.string().max(256)).max(1024),
    denyOut: z.array(z.string().max(64)).max(1024),
  })
  .default({ allowInternetAccess: true, allowOut: [], denyOut: [] });

/**
 * Another one where an agent that does not know it would misread the rest. A key more is no reason: what has one that an
 * agent does not know is kept as it is.
 */
const VERSION = 1;

export const journalSchema = z.strictObject({
  version: z.literal(VERSION),
  id: z.string().regex(/^[a-z0-9]{20}$/),
  /** `own`: the agent's, and nobody's to ask for; nothing of it outlives the agent. */
  purpose: z.enum(['user', 'own']).default('user'),
  /** The host's boot during which the rest is true. */
  bootId: z.string().min(1).max(64),
  state: z.enum(['creating', 'running', 'paused', 'hibernating', 'hibernated', 'resuming', 'destroying']),
  template: z.string().min(1).max(128),
  buildId: z.string().max(128),
  vcpus: whole,
  memoryMib: whole,
  diskMib: whole,
  rateLimits: rateLimitsSchema,
  envs: z.record(z.string(), z.string()),
  metadata: z.record(z.string(), z.string()),
  createdAtMs: whole,
  /** When it is to be destroyed; null for never. */
  endsAtMs: whole.nullable(),
  /** What happens then. */
  onTimeout: z.enum(['destroy', 'hibernate']).default('destroy'),
  egress: egressSchema,
  slotIndex: whole,
  uid: whole,
  accessToken: z.string().min(1).max(256),
  /** What its drives and its boot are made of; null in journals of agents that did not write it down. */
  images: z
    .strictObject({ rootfsPath: path, guestImagePath: path, kernelPath: path, initrdPath: path })
    .nullable()
    .default(null),
  /** The snapshot that it was created from; null for one that booted. */
  snapshotId: z.string().max(64).nullable().default(null),
  /** How often it has hibernated: its files are those of the last time. */
  hibernations: whole.default(0),
  /** What they are; null if it has never hibernated, and in journals of agents that did not write it down. */
  hibernation: z
    .strictObject({
      /** The hibernation whose memory is whole, and maybe this one's; 0 where that is its snapshot's. */
      base: whole,
      /** Of the base's memory, unless that is this one's. */
      baseSha256: sha256.nullable(),
      memorySha256: sha256,
      stateSha256: sha256,
    })
    .nullable()
    .default(null),
  /** What runs it, or can restore its files; null until there is a VMM, and in journals of agents that did not write it. */
  vmm: z
    .strictObject({ driver: z.enum(['qemu', 'firecracker']), version: z.string().max(128) })
    .nullable()
    .default(null),
  /** Null until there is a VMM, and while it hibernates. */
  handle: handleSchema.nullable(),
  phases: z.array(z.strictObject({ name: z.string().max(64), durationMs: z.number().min(0) })).max(64),
});

export type JournalRecord = z.output<typeof journalSchema>;

export type Hibernation = NonNullable<JournalRecord['hibernation']>;

export interface ParsedRecord {
  readonly record: JournalRecord;
  /** Keys that are not in it, because this agent does not know them. */
  readonly unknown: readonly string[];
}

/** Throws `journal_corrupt`, and another error for another version. */
export function parseRecord(text: string, id: string): ParsedRecord {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new WrennError('journal_corrupt', `The journal of sandbox ${id} is not JSON.`, { cause });
  }
  assertVersion(value, id);
  const whole = journalSchema.safeParse(value);
  const unknown = takeOutUnknown(value, whole.error?.issues ?? []);
  const parsed = unknown.length === 0 ? whole : journalSchema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const what = `${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`;
    throw new WrennError('journal_corrupt', `The journal of sandbox ${id} is not valid (${what}).`);
  }
  if (parsed.data.id === id) return { record: parsed.data, unknown };
  throw new WrennError('journal_corrupt', `The journal of sandbox ${id} is that of ${parsed.data.id}.`);
}

/** A higher one is of a form that this agent would misread. */
function assertVersion(value: unknown, id: string): void {
  const { data } = z.looseObject({ version: z.int().min(VERSION + 1) }).safeParse(value);
  if (data === undefined) return;
  throw new WrennError('internal', `The journal of sandbox ${id} is of version ${data.version}.`);
}

/** Of the value itself, at any depth. Returns their paths. */
function takeOutUnknown(value: unknown, issues: readonly z.core.$ZodIssue[]): string[] {
  return issues.flatMap((issue) => {
    if (issue.code !== 'unrecognized_keys') return [];
    const owner = issue.path.reduce<unknown>(
      (object, key) => (isObject(object) ? object[key] : undefined),
      value,
    );
    if (isObject(owner)) for (const key of issue.keys) delete owner[key];
    return issue.keys.map((key) => [...issue.path, key].join('.'));
  });
}

function isObject(value: unknown): value is Record<PropertyKey, unknown> {
  return typeof value === 'object' && value !== null;
}
