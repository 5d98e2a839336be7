/** The agent's messages as inner types: nothing behind this file knows protos. */
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { timestampDate } from '@bufbuild/protobuf/wkt';
import { WrennError } from '@wrenn/protocol';
import {
  type Sandbox as ProtoSandbox,
  type Snapshot as ProtoSnapshot,
  type Template as ProtoTemplate,
  SandboxState,
} from '@wrenn/protocol/agent';

export type AgentState =
  | 'creating'
  | 'running'
  | 'paused'
  | 'hibernating'
  | 'hibernated'
  | 'resuming'
  | 'destroying'
  | 'failed';

export interface AgentSandbox {
  readonly id: string;
  readonly state: AgentState;
  /** Of one that has failed for the agent that runs now alone, and may be well: the state that it was left in. */
  readonly keptAs: AgentState | undefined;
  readonly template: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAt: Date;
  readonly endsAt: Date | undefined;
  readonly address: string;
}

export interface AgentTemplate {
  readonly name: string;
  readonly buildId: string;
  readonly createdAt: Date;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  readonly envdVersion: string;
}

export interface AgentSnapshot {
  readonly id: string;
  readonly sandboxId: string;
  readonly template: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly createdAt: Date;
}

const STATES: Readonly<Record<SandboxState, AgentState | undefined>> = {
  [SandboxState.UNSPECIFIED]: undefined,
  [SandboxState.CREATING]: 'creating',
  [SandboxState.RUNNING]: 'running',
  [SandboxState.PAUSED]: 'paused',
  [SandboxState.DESTROYING]: 'destroying',
  [SandboxState.FAILED]: 'failed',
  [SandboxState.HIBERNATING]: 'hibernating',
  [SandboxState.HIBERNATED]: 'hibernated',
  [SandboxState.RESUMING]: 'resuming',
};

export function toSandbox(sandbox: ProtoSandbox | undefined): AgentSandbox {
  const state = sandbox === undefined ? undefined : STATES[sandbox.state];
  if (sandbox === undefined || state === undefined) {
    throw new WrennError('internal', 'The host agent gave an answer that this version does not know.');
  }
  return {
    id: sandbox.id,
    state,
    keptAs: toKeptAs(sandbox.keptAs),
    template: sandbox.template,
    vcpus: sandbox.vcpus,
    memoryMib: sandbox.memoryMib,
    diskMib: sandbox.diskMib,
    metadata: sandbox.metadata,
    createdAt: toDate(sandbox.createdAt),
    endsAt: sandbox.endsAt === undefined ? undefined : timestampDate(sandbox.endsAt),
    address: sandbox.address,
  };
}

/** One that a later agent keeps in a state that is not known here is kept all the same: nobody should take it for ended. */
function toKeptAs(state: SandboxState): AgentState | undefined {
  return state === SandboxState.UNSPECIFIED ? undefined : (STATES[state] ?? 'running');
}

export function toTemplate(template: ProtoTemplate): AgentTemplate {
  const { name, buildId, vcpus, memoryMib, diskMib, envdVersion } = template;
  return { name, buildId, vcpus, memoryMib, diskMib, envdVersion, createdAt: toDate(template.createdAt) };
}

export function toSnapshot(snapshot: ProtoSnapshot | undefined): AgentSnapshot {
  if (snapshot === undefined) throw new WrennError('internal', 'The host agent answered without a snapshot.');
  const { id, sandboxId, template, vcpus, memoryMib } = snapshot;
  return { id, sandboxId, template, vcpus, memoryMib, createdAt: toDate(snapshot.createdAt) };
}

function toDate(timestamp: Timestamp | undefined): Date {
  return timestamp === undefined ? new Date(0) : timestampDate(timestamp);
}
