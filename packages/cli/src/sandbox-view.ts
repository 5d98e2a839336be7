/** A sandbox as people and scripts see it. */
import { durationMs, timestampMs } from '@bufbuild/protobuf/wkt';
import { type RateLimits, type Sandbox, SandboxState, TimeoutAction } from '@wrenn/protocol/agent';
import { formatDuration, formatRate } from './output.ts';

const STATES: Readonly<Record<SandboxState, string>> = {
  [SandboxState.UNSPECIFIED]: 'unknown',
  [SandboxState.CREATING]: 'creating',
  [SandboxState.RUNNING]: 'running',
  [SandboxState.PAUSED]: 'paused',
  [SandboxState.HIBERNATING]: 'hibernating',
  [SandboxState.HIBERNATED]: 'hibernated',
  [SandboxState.RESUMING]: 'resuming',
  [SandboxState.DESTROYING]: 'destroying',
  [SandboxState.FAILED]: 'failed',
};

interface RateLimitsView {
  readonly networkReceiveBytesPerSecond: number | undefined;
  readonly networkTransmitBytesPerSecond: number | undefined;
  readonly diskBytesPerSecond: number | undefined;
  readonly diskOperationsPerSecond: number | undefined;
}

interface NetworkView {
  readonly allowInternetAccess: boolean;
  readonly allowOut: readonly string[];
  readonly denyOut: readonly string[];
}

export interface SandboxView {
  readonly id: string;
  readonly template: string;
  /** That it was created from, if it was from one. */
  readonly snapshotId: string | undefined;
  readonly state: string;
  readonly reason: string | undefined;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  /** What is absent is not limited. */
  readonly rateLimits: RateLimitsView;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAt: string | undefined;
  readonly endsAt: string | undefined;
  readonly onTimeout: 'destroy' | 'hibernate';
  readonly network: NetworkView;
  readonly address: string;
  readonly vmmPid: number;
  readonly driver: string;
  readonly phases: readonly { readonly name: string; readonly durationMs: number }[];
}

export function viewOf(sandbox: Sandbox): SandboxView {
  const time = (timestamp: Sandbox['createdAt']) =>
    timestamp === undefined ? undefined : new Date(timestampMs(timestamp)).toISOString();
  return {
    id: sandbox.id,
    template: sandbox.template,
    snapshotId: sandbox.snapshotId === '' ? undefined : sandbox.snapshotId,
    state: STATES[sandbox.state],
    reason: sandbox.reason === '' ? undefined : sandbox.reason,
    vcpus: sandbox.vcpus,
    memoryMib: sandbox.memoryMib,
    diskMib: sandbox.diskMib,
    rateLimits: rateLimitsOf(sandbox.rateLimits),
    metadata: sandbox.metadata,
    createdAt: time(sandbox.createdAt),
    endsAt: time(sandbox.endsAt),
    onTimeout: sandbox.onTimeout === TimeoutAction.HIBERNATE ? 'hibernate' : 'destroy',
    network: {
      allowInternetAccess: sandbox.network?.allowInternetAccess ?? true,
      allowOut: sandbox.network?.allowOut ?? [],
      denyOut: sandbox.network?.denyOut ?? [],
    },
    address: sandbox.address,
    vmmPid: sandbox.vmmPid,
    driver: sandbox.driver,
    phases: sandbox.phases.map(({ name, duration }) => ({
      name,
      durationMs: duration === undefined ? 0 : durationMs(duration),
    })),
  };
}

function rateLimitsOf(limits: RateLimits | undefined): RateLimitsView {
  const number = (value: bigint | undefined) => (value === undefined ? undefined : Number(value));
  return {
    networkReceiveBytesPerSecond: number(limits?.networkReceiveBytesPerSecond),
    networkTransmitBytesPerSecond: number(limits?.networkTransmitBytesPerSecond),
    diskBytesPerSecond: number(limits?.diskBytesPerSecond),
    diskOperationsPerSecond: number(limits?.diskOperationsPerSecond),
  };
}

export const LIST_HEADER = ['ID', 'TEMPLATE', 'STATE', 'CPUS', 'MEMORY', 'AGE', 'ENDS IN'] as const;

export function listRow(view: SandboxView, nowMs: number): string[] {
  const since = view.createdAt === undefined ? '' : formatDuration(nowMs - Date.parse(view.createdAt));
  const until =
    view.endsAt === undefined ? 'never' : formatDuration(Math.max(0, Date.parse(view.endsAt) - nowMs));
  return [view.id, view.template, view.state, String(view.vcpus), `${view.memoryMib} MiB`, since, until];
}

function limitsText(limits: RateLimitsView): string {
  const operations = limits.diskOperationsPerSecond;
  const rate = (what: string, bytes: number | undefined) =>
    bytes === undefined ? [] : [`${what} ${formatRate(bytes)}`];
  return [
    ...rate('receive', limits.networkReceiveBytesPerSecond),
    ...rate('transmit', limits.networkTransmitBytesPerSecond),
    ...rate('disk', limits.diskBytesPerSecond),
    ...(operations === undefined ? [] : [`disk ${operations} operations/s`]),
  ].join(', ');
}

function networkText({ allowInternetAccess, allowOut, denyOut }: NetworkView): string {
  return [
    ...(allowInternetAccess ? [] : ['no internet']),
    ...(denyOut.length === 0 ? [] : [`not ${denyOut.join(', ')}`]),
    ...(allowOut.length === 0 ? [] : [`but ${allowOut.join(', ')}`]),
  ].join('; ');
}

/** Name and value lines for `wrenn sandbox get`. */
export function detailRows(view: SandboxView): string[][] {
  const metadata = Object.entries(view.metadata).map(([name, value]) => `${name}=${value}`);
  const rows = [
    ['template', view.template],
    ['snapshot', view.snapshotId ?? ''],
    ['state', view.state],
    ['reason', view.reason ?? ''],
    ['cpus', String(view.vcpus)],
    ['memory', `${view.memoryMib} MiB`],
    ['disk', `${view.diskMib} MiB`],
    ['limits', limitsText(view.rateLimits)],
    ['created', view.createdAt ?? ''],
    ['ends', view.endsAt ?? 'never'],
    ['then', view.endsAt === undefined || view.onTimeout === 'destroy' ? '' : 'hibernates'],
    ['network', networkText(view.network)],
    ['address', view.address],
    ['vmm', view.vmmPid === 0 ? '' : `${view.driver}, pid ${view.vmmPid}`],
    ['metadata', metadata.join(', ')],
    ['creation', view.phases.map(({ name, durationMs: ms }) => `${name} ${formatDuration(ms)}`).join(', ')],
  ];
  return rows.filter(([, value]) => value !== '');
}
