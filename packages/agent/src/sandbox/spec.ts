/** A request to create, checked: what the sandbox is to be. Every limit is applied here and nowhere else. */
import { WrennError } from '@wrenn/protocol';
import type { RateLimits } from '../config/rate-limits.ts';
import type { AgentConfig } from '../config/schema.ts';
import { checkEgress, type EgressPolicy, OPEN_EGRESS } from './egress.ts';
import { checkRateLimits } from './rate-limits.ts';

/** As asked for; undefined means the default. */
export interface CreateRequest {
  readonly template?: string | undefined;
  /** Instead of a template, whose sizes it keeps. */
  readonly snapshotId?: string | undefined;
  readonly vcpus?: number | undefined;
  readonly memoryMib?: number | undefined;
  readonly diskMib?: number | undefined;
  /** 0 is no limit. */
  readonly rateLimits?: RateLimits | undefined;
  readonly envs?: Readonly<Record<string, string>> | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** Until `onTimeout` happens; undefined means never. */
  readonly timeoutMs?: number | undefined;
  readonly onTimeout?: TimeoutAction | undefined;
  readonly egress?: EgressPolicy | undefined;
}

export type TimeoutAction = 'destroy' | 'hibernate';

export interface SandboxSpec {
  readonly template: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  readonly rateLimits: RateLimits;
  readonly envs: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly timeoutMs: number | undefined;
  readonly onTimeout: TimeoutAction;
  readonly egress: EgressPolicy;
}

export type Size = Pick<SandboxSpec, 'vcpus' | 'memoryMib' | 'diskMib'>;

/** Of a sandbox that is the agent's own, and that nobody has asked for anything. */
export function ownSpec(
  template: string,
  { vcpus, memoryMib, diskMib }: Size,
  { rateLimits }: Pick<SandboxSpec, 'rateLimits'>,
): SandboxSpec {
  const nothing = { envs: {}, metadata: {}, timeoutMs: undefined, onTimeout: 'destroy' } as const;
  return { template, vcpus, memoryMib, diskMib, rateLimits, ...nothing, egress: OPEN_EGRESS };
}

/** What the machine has. */
export interface HostFacts {
  readonly vcpus: number;
  readonly memoryMib: number;
  /** Changes with every boot of the host. */
  readonly bootId: string;
}

const TEMPLATE = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/;

/** Throws `invalid_argument`, `vcpus_exceed_host` or `memory_exceeds_host`, each with the field at fault. */
export function checkRequest(request: CreateRequest, config: AgentConfig, host: HostFacts): SandboxSpec {
  const { limits, defaults } = config;
  const template = request.template || defaults.template;
  if (!TEMPLATE.test(template)) {
    throw invalid('template', `${shown(template)} is not a template's name.`, 'Names are like `base`.');
  }
  const spec = {
    template,
    vcpus: request.vcpus ?? defaults.vcpus,
    memoryMib: request.memoryMib ?? defaults.memoryMib,
    diskMib: request.diskMib ?? defaults.diskMib,
    rateLimits: checkRateLimits(request.rateLimits, defaults.rateLimits),
    envs: request.envs ?? {},
    metadata: request.metadata ?? {},
    timeoutMs: request.timeoutMs,
    onTimeout: request.onTimeout ?? 'destroy',
    egress: checkEgress(request.egress ?? OPEN_EGRESS),
  };
  checkVcpus(spec.vcpus, limits, host);
  checkMemory(spec.memoryMib, limits, host);
  checkWhole('disk_mib', spec.diskMib, limits.minDiskMib, limits.maxDiskMib, 'MiB of disk');
  checkEnvs('envs', spec.envs, limits.maxEnvEntries, limits.maxEnvBytes);
  checkMap('metadata', spec.metadata, limits.maxMetadataEntries, limits.maxMetadataBytes);
  checkTimeout(spec.timeoutMs, limits.maxTimeoutMs);
  return spec;
}

type Limits = AgentConfig['limits'];

function checkVcpus(vcpus: number, limits: Limits, host: HostFacts): void {
  const field = 'vcpus';
  if (!Number.isInteger(vcpus) || vcpus < 1) throw invalid(field, 'A sandbox needs at least one vCPU.');
  if (limits.maxVcpus !== undefined && vcpus > limits.maxVcpus) {
    throw invalid(field, `A sandbox may have at most ${limits.maxVcpus} vCPUs here, not ${vcpus}.`);
  }
  if (vcpus <= host.vcpus) return;
  throw new WrennError('vcpus_exceed_host', `${vcpus} vCPUs are more than the host's ${host.vcpus}.`, {
    hint: `Ask for at most ${host.vcpus}.`,
    field,
  });
}

function checkMemory(memoryMib: number, limits: Limits, host: HostFacts): void {
  const field = 'memory_mib';
  if (!Number.isInteger(memoryMib) || memoryMib < limits.minMemoryMib) {
    throw invalid(field, `A sandbox needs at least ${limits.minMemoryMib} MiB of memory.`);
  }
  if (limits.maxMemoryMib !== undefined && memoryMib > limits.maxMemoryMib) {
    throw invalid(field, `A sandbox may have at most ${limits.maxMemoryMib} MiB of memory here.`);
  }
  const availableMib = usableMemoryMib(limits, host);
  if (memoryMib <= availableMib) return;
  throw new WrennError(
    'memory_exceeds_host',
    `${memoryMib} MiB of memory are more than the ${availableMib} MiB that this host can give.`,
    { hint: `Ask for at most ${availableMib} MiB.`, field },
  );
}

/** What sandboxes may have of the host's memory. */
export function usableMemoryMib(limits: Limits, host: HostFacts): number {
  return Math.max(0, host.memoryMib - limits.memoryReserveMib);
}

export function checkTimeout(timeoutMs: number | undefined, maxMs: number): void {
  if (timeoutMs === undefined) return;
  if (!Number.isInteger(timeoutMs) || timeoutMs <= 0) {
    throw invalid('timeout', 'A timeout must be longer than nothing.', 'Leave it out for none.');
  }
  if (timeoutMs > maxMs) throw invalid('timeout', `A timeout may be at most ${Math.floor(maxMs / 1000)} s.`);
}

/** Environment variables, for a sandbox or for a command: whatever exec could not pass on is refused. */
export function checkEnvs(
  field: string,
  envs: Readonly<Record<string, string>>,
  maxEntries: number,
  maxBytes: number,
): void {
  checkMap(field, envs, maxEntries, maxBytes);
  for (const name of Object.keys(envs)) {
    if (name.includes('=')) throw invalid(field, `The environment variable name ${shown(name)} has a "=".`);
  }
}

function checkMap(
  field: string,
  map: Readonly<Record<string, string>>,
  maxEntries: number,
  maxBytes: number,
): void {
  const entries = Object.entries(map);
  if (entries.length > maxEntries) {
    throw invalid(field, `${field} has ${entries.length} entries; at most ${maxEntries} are allowed.`);
  }
  let sizeBytes = 0;
  for (const [name, value] of entries) {
    if (name === '') throw invalid(field, `${field} has an entry without a name.`);
    if (name.includes('\0') || value.includes('\0')) {
      throw invalid(field, `The entry ${shown(name)} of ${field} has a NUL byte.`);
    }
    sizeBytes += Buffer.byteLength(name) + Buffer.byteLength(value);
  }
  if (sizeBytes > maxBytes) {
    throw invalid(field, `${field} has ${sizeBytes} bytes; at most ${maxBytes} are allowed.`);
  }
}

function checkWhole(field: string, value: number, min: number, max: number, unit: string): void {
  if (Number.isInteger(value) && value >= min && value <= max) return;
  throw invalid(field, `A sandbox may have ${min} to ${max} ${unit}, not ${value}.`);
}

function invalid(field: string, message: string, hint?: string): WrennError {
  return new WrennError('invalid_argument', message, { field, ...(hint === undefined ? {} : { hint }) });
}

function shown(text: string): string {
  return JSON.stringify(text.slice(0, 60));
}
