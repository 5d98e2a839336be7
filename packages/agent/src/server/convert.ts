/** Protos to inner types and back. A request that means nothing is refused here, once. */
import { create } from '@bufbuild/protobuf';
import { type Duration, DurationSchema, type Timestamp, timestampFromMs } from '@bufbuild/protobuf/wkt';
import { ENVD_VERSION, WrennError } from '@wrenn/protocol';
import {
  type CreateSandboxRequest,
  type ExecRequest_Start,
  type ExecRequest as ExecRequestProto,
  type ExecResponse,
  ExecResponseSchema,
  FileEntry_Type,
  type FileEntry as FileEntryProto,
  FileEntrySchema,
  type NetworkPolicy as NetworkPolicyProto,
  type RateLimits as RateLimitsProto,
  RateLimitsSchema,
  type Sandbox as SandboxProto,
  SandboxSchema,
  SandboxState as SandboxStateProto,
  type Snapshot as SnapshotProto,
  SnapshotSchema,
  type Template as TemplateProto,
  TemplateSchema,
  TimeoutAction as TimeoutActionProto,
} from '@wrenn/protocol/agent';
import { RATE_NAMES, type RateLimits } from '../config/rate-limits.ts';
import type { EgressPolicy } from '../sandbox/egress.ts';
import type { ExecInput, ExecOutput, ExecRequest } from '../sandbox/exec.ts';
import type { FileEntry } from '../sandbox/guest.ts';
import type { TemplateView } from '../sandbox/manager.ts';
import type { CreateRequest } from '../sandbox/spec.ts';
import type { SandboxState } from '../sandbox/states.ts';
import type { SandboxView } from '../sandbox/view.ts';
import type { Snapshot } from '../storage/snapshots.ts';

const STATES: Readonly<Record<SandboxState, SandboxStateProto>> = {
  creating: SandboxStateProto.CREATING,
  running: SandboxStateProto.RUNNING,
  paused: SandboxStateProto.PAUSED,
  hibernating: SandboxStateProto.HIBERNATING,
  hibernated: SandboxStateProto.HIBERNATED,
  resuming: SandboxStateProto.RESUMING,
  destroying: SandboxStateProto.DESTROYING,
  failed: SandboxStateProto.FAILED,
};

const FILE_TYPES: Readonly<Record<FileEntry['type'], FileEntry_Type>> = {
  file: FileEntry_Type.FILE,
  directory: FileEntry_Type.DIRECTORY,
  symlink: FileEntry_Type.SYMLINK,
  other: FileEntry_Type.UNSPECIFIED,
};

/** What is absent takes its default; what is there is checked as it is, zero too. */
export function toCreateRequest(request: CreateSandboxRequest): CreateRequest {
  return {
    template: request.template,
    snapshotId: request.snapshotId === '' ? undefined : request.snapshotId,
    vcpus: request.vcpus,
    memoryMib: request.memoryMib,
    diskMib: request.diskMib,
    rateLimits: toRateLimits(request.rateLimits),
    envs: request.envs,
    metadata: request.metadata,
    timeoutMs: toMs(request.timeout, 'timeout'),
    onTimeout: request.onTimeout === TimeoutActionProto.HIBERNATE ? 'hibernate' : 'destroy',
    egress: request.network === undefined ? undefined : toEgress(request.network),
  };
}

/** What is absent has its default. */
export function toEgress(policy: NetworkPolicyProto | undefined): EgressPolicy {
  return {
    allowInternetAccess: policy?.allowInternetAccess ?? true,
    allowOut: policy?.allowOut ?? [],
    denyOut: policy?.denyOut ?? [],
  };
}

function toRateLimits(proto: RateLimitsProto | undefined): RateLimits {
  const limits: { -readonly [name in keyof RateLimits]: number } = {};
  for (const name of RATE_NAMES) {
    const value = proto?.[name];
    // What is too large for a number stays too large.
    if (value !== undefined) limits[name] = Number(value);
  }
  return limits;
}

function toRateLimitsProto(limits: RateLimits): RateLimitsProto {
  const proto = create(RateLimitsSchema);
  for (const name of RATE_NAMES) {
    const value = limits[name];
    if (value !== undefined) proto[name] = BigInt(value);
  }
  return proto;
}

/** Undefined for none. Throws for what is no length of time. */
export function toMs(duration: Duration | undefined, field: string): number | undefined {
  if (duration === undefined) return undefined;
  const { seconds, nanos } = duration;
  if (seconds < 0n || nanos < 0 || nanos > 999_999_999 || seconds > BigInt(Number.MAX_SAFE_INTEGER) / 1000n) {
    throw new WrennError('invalid_argument', 'That is no length of time.', { field });
  }
  // Never rounded down to no time at all.
  return Number(seconds) * 1000 + Math.ceil(nanos / 1e6);
}

export function toSandboxProto(view: SandboxView): SandboxProto {
  return create(SandboxSchema, {
    id: view.id,
    template: view.template,
    state: STATES[view.state],
    reason: view.reason ?? '',
    keptAs: view.keptAs === undefined ? SandboxStateProto.UNSPECIFIED : STATES[view.keptAs],
    vcpus: view.vcpus,
    memoryMib: view.memoryMib,
    diskMib: view.diskMib,
    rateLimits: toRateLimitsProto(view.rateLimits),
    metadata: { ...view.metadata },
    createdAt: timestampFromMs(view.createdAtMs),
    ...optional('endsAt', view.endsAtMs, timestampFromMs),
    address: view.address ?? '',
    vmmPid: view.vmmPid ?? 0,
    driver: view.driver,
    snapshotId: view.snapshotId ?? '',
    network: {
      allowInternetAccess: view.egress.allowInternetAccess,
      allowOut: [...view.egress.allowOut],
      denyOut: [...view.egress.denyOut],
    },
    onTimeout: view.onTimeout === 'hibernate' ? TimeoutActionProto.HIBERNATE : TimeoutActionProto.DESTROY,
    phases: view.phases.map(({ name, durationMs }) => ({ name, duration: toDuration(durationMs) })),
  });
}

export function toSnapshotProto(snapshot: Snapshot): SnapshotProto {
  return create(SnapshotSchema, {
    id: snapshot.id,
    sandboxId: snapshot.sandboxId ?? '',
    template: snapshot.template.name,
    vcpus: snapshot.vcpus,
    memoryMib: snapshot.memoryMib,
    diskMib: snapshot.diskMib,
    createdAt: timestampFromMs(snapshot.createdAtMs),
    driver: snapshot.vmm.driver,
  });
}

export function toTemplateProto(template: TemplateView): TemplateProto {
  return create(TemplateSchema, {
    name: template.name,
    buildId: template.buildId,
    createdAt: timestampFromMs(template.builtAtMs),
    sizeBytes: BigInt(template.sizeBytes),
    vcpus: template.vcpus,
    memoryMib: template.memoryMib,
    diskMib: template.diskMib,
    envdVersion: ENVD_VERSION,
  });
}

export function toExecRequest(start: ExecRequest_Start): ExecRequest {
  const { command, envs, cwd, user, terminal, stdin } = start;
  return {
    command,
    envs,
    cwd: cwd || undefined,
    user: user || undefined,
    terminal: terminal === undefined ? undefined : { cols: terminal.cols, rows: terminal.rows },
    stdin,
    timeoutMs: toMs(start.timeout, 'timeout'),
  };
}

/** Throws for a message that is no input. */
export function toExecInput({ message }: ExecRequestProto): ExecInput {
  switch (message.case) {
    case 'stdin':
      return { kind: 'stdin', bytes: message.value };
    case 'closeStdin':
      return { kind: 'closeStdin' };
    case 'resize':
      return { kind: 'resize', size: { cols: message.value.cols, rows: message.value.rows } };
    case 'signal':
      return { kind: 'signal', number: message.value.number };
    default:
      throw new WrennError('invalid_argument', 'After the first message, a command takes input only.', {
        field: 'message',
      });
  }
}

export function toExecResponse(output: ExecOutput): ExecResponse {
  switch (output.kind) {
    case 'started':
      return create(ExecResponseSchema, { message: { case: 'started', value: { pid: output.pid } } });
    case 'exited': {
      const { exitCode, status } = output;
      return create(ExecResponseSchema, { message: { case: 'exited', value: { exitCode, status } } });
    }
    default:
      return create(ExecResponseSchema, { message: { case: output.kind, value: output.bytes } });
  }
}

export function toFileEntryProto(entry: FileEntry): FileEntryProto {
  return create(FileEntrySchema, {
    name: entry.name,
    path: entry.path,
    type: FILE_TYPES[entry.type],
    size: entry.sizeBytes,
    mode: entry.mode,
    owner: entry.owner,
    group: entry.group,
    ...optional('modifiedAt', entry.modifiedAtMs, timestampFromMs),
    symlinkTarget: entry.symlinkTarget ?? '',
  });
}

function optional<K extends string>(
  name: K,
  value: number | undefined,
  convert: (ms: number) => Timestamp,
): Partial<Record<K, Timestamp>> {
  const field: Partial<Record<K, Timestamp>> = {};
  if (value !== undefined) field[name] = convert(value);
  return field;
}

function toDuration(ms: number): Duration {
  const seconds = Math.floor(ms / 1000);
  return create(DurationSchema, {
    seconds: BigInt(seconds),
    nanos: Math.min(999_999_999, Math.round((ms - seconds * 1000) * 1e6)),
  });
}
