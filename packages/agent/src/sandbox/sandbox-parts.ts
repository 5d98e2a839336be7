/** What a sandbox is to those who have one, and what it is made from. */
import type { EnvdClient } from '../envd-client/client.ts';
import type { NetworkSlot } from '../network/slot.ts';
import type { SnapshotDraft } from '../storage/snapshots.ts';
import type { Microvm } from '../vmm/driver.ts';
import type { CleanupStack } from './cleanup-stack.ts';
import type { CreateContext, Start, Stopwatch } from './create.ts';
import type { SandboxDeps } from './deps.ts';
import type { EgressPolicy } from './egress.ts';
import type { GuestLease } from './guest.ts';
import type { JournalRecord } from './journal-record.ts';
import type { Phase } from './log.ts';
import type { TimeoutAction } from './spec.ts';
import type { SandboxView } from './view.ts';

/** As secret as the sandbox. */
export interface SandboxAccess {
  /** Undefined while it does not run. */
  readonly address: string | undefined;
  readonly accessToken: string;
}

export interface Sandbox {
  readonly id: string;
  view(): SandboxView;
  /** Once, for a new one. On failure everything is taken away again before it rejects. */
  create(start: Start, onThaw?: CreateContext['onThaw']): Promise<void>;
  /** Makes one of the agent's own, which stands still, somebody's. */
  claim(claim: Claim): Promise<void>;
  pause(): Promise<void>;
  /** Continues a paused one, and wakes one that hibernates. */
  resume(): Promise<void>;
  /** To its files, and nothing else of it is left on the host. On failure it goes on as before. */
  hibernate(): Promise<void>;
  /** Copies it as it stands, into a draft; it goes on afterwards. The caller commits the draft, or discards it. */
  copyTo(draft: SnapshotDraft): Promise<JournalRecord>;
  /** From now; undefined means never. */
  setTimeout(timeoutMs: number | undefined): Promise<void>;
  /** One that hibernates has it from when it wakes. */
  setEgress(egress: EgressPolicy): Promise<void>;
  access(): SandboxAccess;
  /** Pre-empts whatever is going on. Calls at the same time share one outcome. */
  destroy(): Promise<void>;
  /** It is kept, and this agent may still come to have it. */
  mayBeAdopted(): boolean;
  /** Looks again at one that may be: it is had again, lost, or kept on. */
  tryAgain(): Promise<void>;
  /** Ends it as failed: takes everything away and keeps the reason. Never rejects. */
  fail(reason: string): Promise<void>;
  /** Throws unless the sandbox is running. The lease's signal aborts when the sandbox ends. */
  use(): GuestLease;
  /** The guest's console; the last lines of it for one that has failed. */
  consoleTail(maxLines: number): Promise<string[]>;
  /** Lets go without touching the microVM: the agent is leaving. One that is being created is destroyed. */
  detach(): Promise<void>;
}

/** What is somebody's wish, and no part of what is restored. */
export interface Claim {
  readonly envs: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAtMs: number;
  readonly endsAtMs: number | undefined;
  readonly onTimeout: TimeoutAction;
  readonly egress: EgressPolicy;
  readonly phases: readonly Phase[];
}

/** What a sandbox holds once it is running. */
export interface Holdings {
  readonly slot: NetworkSlot;
  readonly microvm: Microvm;
  readonly guest: EnvdClient;
  /** As in Created; undefined for one found at the agent's start. */
  readonly refused?: AbortSignal;
}

export interface Kept {
  readonly why: string;
  /** With whom it may go on; with nobody where it is lost, and something of it did not end. */
  readonly hope: 'later' | 'newer agent' | 'none';
}

export interface SandboxParts {
  readonly deps: SandboxDeps;
  readonly record: JournalRecord;
  /** Whether the record is on disk. */
  readonly journalled: boolean;
  /** Of its files, which last until the sandbox is gone. */
  readonly cleanup: CleanupStack;
  /** Of all else that it holds. */
  readonly machine: CleanupStack;
  readonly timed: Stopwatch;
  /** For one found at the agent's start. */
  readonly holdings?: Holdings;
  /** For one found that this agent cannot go on with, nor end: failed, until it is destroyed. */
  readonly kept?: Kept;
  /** Nothing of it is left. */
  readonly onGone: (id: string) => void;
  /** It stays for its reason alone. */
  readonly onFailed: (id: string) => void;
  /** It holds nothing but files. */
  readonly onHibernated: (id: string) => void;
  /** It is about to hold more; throws if there is no room for it. */
  readonly onWaking: (id: string) => void;
}
