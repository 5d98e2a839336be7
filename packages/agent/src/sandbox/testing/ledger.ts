/** What the fakes of a world have in common: what is held, what went wrong, and how a test disturbs them. */
import type { WrennError } from '@wrenn/protocol';
import type { ProcessEvent } from '@wrenn/protocol/process';
import type { Snapshot } from '../../storage/snapshots.ts';
import type { MicrovmHandle } from '../../vmm/driver.ts';
import type { SandboxDeps } from '../deps.ts';

export interface FakeVm {
  readonly handle: MicrovmHandle;
  status: 'running' | 'paused';
  alive: boolean;
  /** The memory file that it was restored from. */
  readonly mappedPath: string | undefined;
  /** The VMM ends by itself. */
  die(message: string): void;
}

export interface GuestSettings {
  readonly toldAtMs: number;
  readonly envs: Readonly<Record<string, string>>;
}

export interface FakeWorld {
  readonly deps: SandboxDeps;
  readonly vms: Map<number, FakeVm>;
  /** Indices that are reserved, and whether their kernel objects are there. */
  readonly slots: Map<number, 'reserved' | 'up'>;
  readonly layers: Set<string>;
  readonly removedTemplates: string[];
  /** Memory files that were written. */
  readonly snapshots: Set<string>;
  /** Those of them that are deltas, and of what. */
  readonly deltas: Map<string, string>;
  readonly manifests: Map<string, Snapshot>;
  /** The pids in each, by the sandbox's id. */
  readonly cgroups: Map<string, number[]>;
  /** Why the kernel has killed a VMM, by the sandbox's id. */
  readonly killedBecause: Map<string, string>;
  readonly journals: Map<string, string>;
  /** Contracts that were broken; empty at the end of every test. */
  readonly violations: string[];
  readonly logged: { readonly level: string; readonly message: string; readonly fields: object }[];
  readonly counted: string[];
  /** Of the host, for whom the pool makes room. */
  availableMemoryMib: number;
  /** Of the host's disk. */
  availableDiskBytes: number;
  /** What the guest does with a command; the default prints its arguments. */
  onExec: (command: readonly string[]) => AsyncIterable<ProcessEvent>;
  /** A guest has acknowledged its settings, and may refuse them still. */
  onAnsweredFirst: (refuse: (error: WrennError) => void) => void;
  /** The settings that guests have applied, each by its address. As they do, they pass over what seems old to them. */
  readonly settings: Map<string, GuestSettings>;
  /** The host's, for what it tells the guests. */
  nowMs: () => number;
  readonly signalled: { readonly pid: number; readonly signal: number }[];
  readonly inputs: { readonly pid: number; readonly bytes: Uint8Array }[];
  /** Called within every operation: throws to make it fail, waits to make it slow. */
  disturb: (operation: string, signal?: AbortSignal) => Promise<void>;
  aliveVms(): FakeVm[];
  /** As kill -9 would: nothing that this agent has begun goes on. */
  killAgent(): void;
}

export type Ledger = Omit<FakeWorld, 'deps'>;
