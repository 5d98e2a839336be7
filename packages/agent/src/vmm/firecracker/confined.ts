/** What this driver asks of the confinement; `vmm/confinement.ts` provides it. */
import type { ProcessIdentity } from '@wrenn/host';
import type { ExitStatus } from './exit-reason.ts';

export interface ConfinedCommand {
  readonly program: string;
  readonly args: readonly string[];
  readonly uid: number;
  readonly gid: number;
  /** Name of the network namespace, as `ip netns` knows it. */
  readonly netns: string;
  /** What the process finds in its mount namespace, at the same paths as on the host. */
  readonly readOnlyPaths: readonly string[];
  readonly writablePaths: readonly string[];
  readonly devices: readonly string[];
  /** Descriptors of this process that become the child's; its stdin is /dev/null. */
  readonly stdout: number;
  readonly stderr: number;
}

export interface ConfinedProcess extends ProcessIdentity {
  /** Processes that stand between the agent and the command, outermost first. */
  readonly wrappers: readonly ProcessIdentity[];
  /** Resolves when the command is gone; never rejects. */
  readonly exited: Promise<ExitStatus>;
}

export interface ConfinedLaunchOptions {
  readonly signal: AbortSignal;
  /** As soon as there is a process to be cleaned up, and before anything else can fail. */
  readonly onSpawned: (process: ProcessIdentity, wrappers: readonly ProcessIdentity[]) => Promise<void>;
}

/** On failure or abort no process is left. */
export type LaunchConfined = (
  command: ConfinedCommand,
  options: ConfinedLaunchOptions,
) => Promise<ConfinedProcess>;
