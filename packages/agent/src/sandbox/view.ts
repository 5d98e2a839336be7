/** What everybody may know of a sandbox. */
import type { RateLimits } from '../config/rate-limits.ts';
import type { EgressPolicy } from './egress.ts';
import type { JournalRecord } from './journal-record.ts';
import type { Phase } from './log.ts';
import type { TimeoutAction } from './spec.ts';
import type { SandboxState } from './states.ts';

export interface SandboxView {
  readonly id: string;
  readonly template: string;
  readonly state: SandboxState;
  /** Why it failed. */
  readonly reason: string | undefined;
  /** It has failed for this agent alone: all of it may be there, and what it was made from is still in use. */
  readonly isKept: boolean;
  /** The state that an earlier agent has left it in, where it is kept because it may be well. */
  readonly keptAs: SandboxState | undefined;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  readonly rateLimits: RateLimits;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAtMs: number;
  readonly endsAtMs: number | undefined;
  readonly onTimeout: TimeoutAction;
  readonly egress: EgressPolicy;
  /** Where the host reaches the guest. */
  readonly address: string | undefined;
  readonly vmmPid: number | undefined;
  readonly driver: string;
  /** That it was created from. */
  readonly snapshotId: string | undefined;
  /** It is the agent's own, and in no list. */
  readonly isOwn: boolean;
  readonly phases: readonly Phase[];
}

/** What the journal does not know; `driver` is that of what has none yet. */
type Present = Pick<SandboxView, 'state' | 'reason' | 'isKept' | 'keptAs' | 'address' | 'driver'>;

export function viewOf(
  record: JournalRecord,
  { state, reason, isKept, keptAs, address, driver }: Present,
): SandboxView {
  return {
    id: record.id,
    template: record.template,
    state,
    reason,
    isKept,
    keptAs,
    vcpus: record.vcpus,
    memoryMib: record.memoryMib,
    diskMib: record.diskMib,
    rateLimits: record.rateLimits,
    metadata: record.metadata,
    createdAtMs: record.createdAtMs,
    endsAtMs: record.endsAtMs ?? undefined,
    onTimeout: record.onTimeout,
    egress: record.egress,
    address,
    vmmPid: state === 'failed' && !isKept ? undefined : record.handle?.pid,
    driver: record.handle?.driver ?? driver,
    snapshotId: record.snapshotId ?? undefined,
    isOwn: record.purpose === 'own',
    phases: record.phases,
  };
}

/** Whether what it was made from may not go. */
export function isInUse({ state, isKept }: SandboxView): boolean {
  return state !== 'failed' || isKept;
}
