/**
 * Everything that can be configured, with its unit in its name and its default beside it.
 * Unknown fields are refused: a misspelt limit must not silently be no limit.
 */
import { isAbsolute, join, normalize } from 'node:path';
import { z } from 'zod';
import { rateLimitsSchema } from './rate-limits.ts';

/** The kernel's limit for a unix socket's path is 107; the VMM's own lie in `<wrennDir>/sandboxes/<id>/run/`. */
const WRENN_DIR_MAX_BYTES = 40;
const SOCKET_PATH_MAX_BYTES = 100;

const MIB_MAX = 16 * 1024 * 1024;
const YEAR_MS = 365 * 24 * 60 * 60 * 1000;

const absolutePath = (maxBytes: number) =>
  z
    .string()
    .refine((path) => isAbsolute(path) && !path.includes('\0'), 'must be an absolute path')
    .transform((path) => normalize(path).replace(/(.)\/+$/, '$1'))
    .refine((path) => Buffer.byteLength(path) <= maxBytes, `must be at most ${maxBytes} bytes long`);

const count = (min: number, max: number) => z.int().min(min).max(max);
const ipv4 = z.ipv4();

const limitsSchema = z.strictObject({
  /** How many sandboxes may exist at once, paused ones included. */
  maxSandboxes: count(1, 10_000).default(200),
  /** The most vCPUs one sandbox may have; absent means as many as the host has. */
  maxVcpus: count(1, 1024).optional(),
  minMemoryMib: count(64, MIB_MAX).default(128),
  /** The most memory one sandbox may have; absent means what the host has without the reserve. */
  maxMemoryMib: count(64, MIB_MAX).optional(),
  /** Memory of the host that is never promised to sandboxes. */
  memoryReserveMib: count(0, MIB_MAX).default(512),
  /** How many times over the host's memory may be promised: guests seldom touch all of theirs. */
  memoryOvercommitRatio: z.number().min(0.1).max(100).default(2),
  minDiskMib: count(16, MIB_MAX).default(64),
  maxDiskMib: count(16, MIB_MAX).default(102_400),
  /** Free space that a new layer must leave on the file system: sparse layers grow later. */
  diskReserveMib: count(0, MIB_MAX).default(1024),
  maxMetadataEntries: count(0, 1000).default(64),
  maxMetadataBytes: count(0, 1024 * 1024).default(64 * 1024),
  maxEnvEntries: count(0, 10_000).default(512),
  maxEnvBytes: count(0, 1024 * 1024).default(256 * 1024),
  /** The longest time to live that may be asked for. */
  maxTimeoutMs: count(1, 10 * YEAR_MS).default(YEAR_MS),
  /** Commands, file transfers and watchers open at once in one sandbox. */
  maxStreamsPerSandbox: count(1, 10_000).default(128),
  /** Pauses, resumes and the like that wait for one sandbox. */
  maxQueuedOperations: count(1, 1000).default(16),
  /** Sandboxes that failed, kept in the list for their reason. */
  keptFailures: count(0, 10_000).default(100),
  keptFailuresMs: count(0, YEAR_MS).default(10 * 60_000),
});

const defaultsSchema = z.strictObject({
  template: z.string().min(1).max(128).default('base'),
  vcpus: count(1, 1024).default(1),
  memoryMib: count(64, MIB_MAX).default(512),
  diskMib: count(16, MIB_MAX).default(4096),
  /** For whoever asks for no other, and not for none; see rate-limits.ts. */
  rateLimits: rateLimitsSchema.prefault({}),
});

const timeoutsSchema = z.strictObject({
  /** One attempt to boot, from the VMM's start until the guest agent answers. */
  bootMs: count(100, 3_600_000).default(60_000),
  /** The boot that finds out whether KVM runs guests here; with one that does it takes a third of a second. */
  kvmProbeMs: count(100, 600_000).default(8000),
  /** How often a boot is tried. */
  bootAttempts: count(1, 10).default(3),
  /** The guest agent's answer to its settings, and to any other question that it can answer at once. */
  guestRequestMs: count(100, 600_000).default(30_000),
  /** How long a file transfer or a command's input may stand still before the guest counts as gone. */
  guestStallMs: count(100, 3_600_000).default(120_000),
  pauseMs: count(100, 600_000).default(30_000),
  /** Writing a guest's memory; its size and the disk decide. */
  snapshotMs: count(100, 3_600_000).default(300_000),
  /** Each step that takes something away again. */
  cleanupStepMs: count(100, 600_000).default(30_000),
  /** Finding a microVM again after the agent was restarted. */
  adoptMs: count(100, 600_000).default(30_000),
  /** After which what could not be adopted is looked at again. */
  adoptAgainMs: count(1000, 86_400_000).default(60_000),
  shutdownMs: count(100, 60_000).default(10_000),
});

const warmSchema = z.strictObject({
  /** `auto`: a template and size that was asked for once is kept warm from then on, where the driver can do that. */
  mode: z.enum(['auto', 'off']).default('auto'),
  /** How many are kept; each is a guest's memory on the disk, some 120 MiB of 512. */
  maxKept: count(1, 1000).default(8),
});

const poolSchema = z.strictObject({
  /** Sandboxes kept ready, by template and size; what is absent has its default. None: each is made when asked for. */
  entries: z
    .array(
      z.strictObject({
        template: z.string().min(1).max(128).optional(),
        vcpus: count(1, 1024).optional(),
        memoryMib: count(64, MIB_MAX).optional(),
        diskMib: count(16, MIB_MAX).optional(),
        size: count(1, 1000),
      }),
    )
    .max(32)
    .default([]),
  /** Memory that must stay available on the host, besides what a new one could use. */
  minAvailableMib: count(0, MIB_MAX).default(1024),
});

const egressSchema = z.strictObject({
  /** Connections through the gateway that one sandbox may have open, and requests under way in them. */
  maxConnectionsPerSandbox: count(1, 1000).default(256),
  /** By when a guest has said in a connection which host it wants, */
  headMs: count(100, 600_000).default(10_000),
  /** and in how many bytes. */
  maxHeadBytes: count(1024, 64 * 1024).default(16 * 1024),
  /** Asking for the host's addresses and connecting to one, together. */
  connectMs: count(100, 600_000).default(10_000),
  /** A connection in which nothing moves for so long is closed. */
  idleMs: count(1000, 24 * 3_600_000).default(900_000),
  /** What the gateway asks for names; absent means what the host uses. */
  resolvers: z.array(ipv4).min(1).max(3).optional(),
});

const networkSchema = z.strictObject({
  /** Where the slots' host-side addresses are taken from; must not overlap with any of the machine's routes. */
  range: z.cidrv4().default('10.117.0.0/16'),
  /** Begins the name of every namespace, link and table, so that agents with different ones never meet. */
  prefix: z
    .string()
    .regex(/^[a-z][a-z0-9]{0,4}$/, 'must be one to five lower-case letters and digits')
    .default('wr'),
  /** What guests ask for names; absent means what the host uses, or public ones where that is its own loopback. */
  nameservers: z.array(ipv4).min(1).max(3).optional(),
  /** How long the address of a destroyed sandbox rests before it is used again. */
  holdOffMs: count(0, 3_600_000).default(5000),
  /** Network slots that are set up before they are asked for. */
  readySlots: count(0, 256).default(4),
  /** Let the host's uplinks forward packets where they do not yet. */
  enableForwarding: z.boolean().default(true),
  /** The gateway for sandboxes that may reach names of hosts. */
  egress: egressSchema.prefault({}),
});

const cgroupsSchema = z.strictObject({
  /** `auto`: what the machine allows, with a warning where that is not all; `required`: no start without all of it. */
  mode: z.enum(['auto', 'required', 'off']).default('auto'),
  /** What a VMM may use beyond its guest's memory: itself, translated code (up to 128 MiB), page cache. */
  memoryOverheadMib: count(32, MIB_MAX).default(256),
  /** And for each vCPU: where CPUs are emulated, each has tables of translated addresses that grow with use. */
  memoryOverheadPerVcpuMib: count(0, MIB_MAX).default(64),
  /** What a VMM's own threads may use beyond its guest's CPUs; 100 is one CPU. */
  cpuOverheadPercent: count(0, 10_000).default(50),
  /** Processes and threads of one sandbox on the host: a VMM has one for each vCPU and up to 64 for its disks. */
  pidsMax: count(32, 100_000).default(512),
});

const serverSchema = z.strictObject({
  /** Whose members may use the agent's socket besides its owner: a group's number. Absent means nobody. */
  socketGid: count(1, 2_147_483_647).optional(),
  maxConnections: count(1, 10_000).default(256),
  maxConcurrentRequests: count(1, 100_000).default(1024),
  maxMessageBytes: count(64 * 1024, 64 * 1024 * 1024).default(4 * 1024 * 1024),
});

const logSchema = z.strictObject({
  level: z.enum(['debug', 'info', 'warn', 'error', 'silent']).default('info'),
  /** Where the log goes; absent means stderr. */
  file: absolutePath(1024).optional(),
  /** The file is begun anew at this size, with one older one kept beside it. */
  maxFileBytes: count(64 * 1024, 1024 * 1024 * 1024).default(16 * 1024 * 1024),
});

export const configSchema = z.strictObject({
  /** All that belongs to this agent. Two agents never share one. */
  wrennDir: absolutePath(WRENN_DIR_MAX_BYTES).default('/var/lib/wrenn'),
  /** Where kernels and templates are; absent means in `wrennDir`. Agents may share it: it is only read. */
  imagesDir: absolutePath(1024).optional(),
  /** Where the agent listens; absent means `agent.sock` in `wrennDir`. */
  socketPath: absolutePath(SOCKET_PATH_MAX_BYTES).optional(),
  driver: z.enum(['auto', 'qemu', 'firecracker']).default('auto'),
  /** Each VMM runs as this uid and gid plus its slot's index. The default is in a range that nothing else uses. */
  uidBase: count(1000, 2_147_000_000).default(1_900_000_000),
  /** The agent leaves when it has had no sandbox and no request for so long; 0 means never. */
  idleTimeoutMs: count(0, YEAR_MS).default(0),
  limits: limitsSchema.prefault({}),
  defaults: defaultsSchema.prefault({}),
  timeouts: timeoutsSchema.prefault({}),
  network: networkSchema.prefault({}),
  warm: warmSchema.prefault({}),
  pool: poolSchema.prefault({}),
  cgroups: cgroupsSchema.prefault({}),
  server: serverSchema.prefault({}),
  log: logSchema.prefault({}),
});

export type AgentConfig = z.output<typeof configSchema>;
/** The same before the defaults are filled in: what a file or a test writes. */
export type AgentConfigInput = z.input<typeof configSchema>;

export function agentSocketPath(config: AgentConfig): string {
  return config.socketPath ?? join(config.wrennDir, 'agent.sock');
}

export interface AgentPaths {
  readonly wrennDir: string;
  readonly imagesDir: string;
  readonly sandboxesDir: string;
  readonly layersDir: string;
  /** Nodes of devices for VMMs; root's alone. */
  readonly devicesDir: string;
  readonly snapshotsDir: string;
  /** Journals that could not be read, for people to look at. */
  readonly corruptDir: string;
  readonly lockFile: string;
  readonly socketPath: string;
}

export function agentPaths(config: AgentConfig): AgentPaths {
  const { wrennDir } = config;
  return {
    wrennDir,
    imagesDir: config.imagesDir ?? wrennDir,
    sandboxesDir: join(wrennDir, 'sandboxes'),
    layersDir: join(wrennDir, 'layers'),
    devicesDir: join(wrennDir, 'devices'),
    snapshotsDir: join(wrennDir, 'snapshots'),
    corruptDir: join(wrennDir, 'corrupt'),
    lockFile: join(wrennDir, 'agent.lock'),
    socketPath: agentSocketPath(config),
  };
}
