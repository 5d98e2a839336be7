/** What the sandbox manager is given: everything that touches the world, as interfaces. */
import type { ProcessIdentity } from '@wrenn/host';
import type { Cgroups } from '../cgroups/cgroups.ts';
import type { AgentConfig } from '../config/schema.ts';
import type { EnvdClient } from '../envd-client/client.ts';
import type { Network } from '../network/slot.ts';
import type { Snapshots } from '../storage/snapshots.ts';
import type { Storage } from '../storage/storage.ts';
import type { DriverName, Microvm, MicrovmHandle, MicrovmSpec, VmmDriver } from '../vmm/driver.ts';
import type { Journal } from './journal.ts';
import type { Logger, Observer } from './log.ts';
import type { HostFacts } from './spec.ts';

/** The steps of a creation, in order; also the names of its phases. */
export const CREATE_STEPS = [
  'validate',
  'reserve',
  'journal',
  'layer',
  'network',
  'launch',
  'boot',
  'init',
] as const;
export type CreateStep = (typeof CREATE_STEPS)[number];

/**
 * Called around each step of a creation; a test makes it throw or wait, to see that nothing is left then.
 * `launch` and `boot` are one call, `after launch` being the moment at which there is a VMM.
 */
export type Checkpoint = (step: CreateStep, moment: 'before' | 'after', id: string) => Promise<void> | void;

export interface BootOptions {
  readonly signal: AbortSignal;
  readonly onSpawned: (handle: MicrovmHandle) => Promise<void>;
  /** Resolves when the guest is of use. Its failure fails the attempt. */
  readonly waitUntilUp: (signal: AbortSignal) => Promise<void>;
  readonly onAttemptFailed: (attempt: number, diagnosis: string, error: unknown) => void;
}

/** Starts a microVM and waits until it is up; tries again as the configuration says. Leaves nothing on failure. */
export type BootMicrovm = (driver: VmmDriver, spec: MicrovmSpec, options: BootOptions) => Promise<Microvm>;

/** A sandbox whose processes are to end: those that are known, and those that nobody has written down. */
export interface Suspect {
  readonly id: string;
  /** Undefined where none can be but those known. */
  readonly uid: number | undefined;
  readonly known: readonly ProcessIdentity[];
}

/** Ends them all. Never rejects: of whom anything is left when the signal aborts is told by id, with what it is. See strays.ts. */
export type KillStrays = (
  suspects: readonly Suspect[],
  signal: AbortSignal,
) => Promise<ReadonlyMap<string, string>>;

export interface SandboxDeps {
  readonly config: AgentConfig;
  readonly host: HostFacts;
  /** What the host could give without swapping, now. */
  readonly availableMemoryMib: () => Promise<number>;
  /** What could still be written to where this directory is. */
  readonly availableDiskBytes: (directory: string) => Promise<number>;
  /** Runs new microVMs. */
  readonly driver: VmmDriver;
  /** Finds microVMs again that another driver may have started. */
  readonly driverNamed: (name: DriverName) => VmmDriver;
  readonly bootMicrovm: BootMicrovm;
  readonly killStrays: KillStrays;
  readonly cgroups: Cgroups;
  readonly network: Network;
  readonly storage: Storage;
  readonly snapshots: Snapshots;
  /** Of the VMM that runs new microVMs: what it has written, no other version reads. */
  readonly driverVersion: string;
  readonly journal: Journal;
  readonly connectGuest: (address: string, accessToken: string) => EnvdClient;
  /** Name servers for guests. */
  readonly nameservers: readonly string[];
  readonly log: Logger;
  readonly observer: Observer;
  readonly checkpoint?: Checkpoint;
}
