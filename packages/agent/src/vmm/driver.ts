/**
 * What runs microVMs: one interface, two drivers (qemu/, firecracker/).
 *
 * A driver starts a VMM process in a confinement of its own (network, mount and PID namespace, own uid)
 * and speaks to it over a socket in the sandbox's run directory. It keeps no state of its own: all that
 * is needed to find a microVM again after a restart of the agent is in its MicrovmHandle, which the
 * journal stores. Drivers know nothing of sandboxes, templates or envd.
 */

export type DriverName = 'qemu' | 'firecracker';

export interface DriverFeatures {
  /** Guest memory can be frozen and continued in place. */
  readonly pause: boolean;
  /** The driver takes snapshots with memory and starts from them. */
  readonly snapshot: boolean;
  /** It can write of the memory only what differs from its parent's. */
  readonly delta: boolean;
  /** How guest code runs. */
  readonly accelerator: 'kvm' | 'tcg';
}

export interface DriveSpec {
  readonly id: string;
  /** Path on the host; readable (and writable unless `readOnly`) by `MicrovmSpec.uid`. */
  readonly path: string;
  readonly readOnly: boolean;
  /** For reads and writes together; what is absent is as fast as it can be. */
  readonly rateLimit?: DriveRateLimit | undefined;
}

export interface DriveRateLimit {
  readonly bytes?: TokenBucket | undefined;
  readonly operations?: TokenBucket | undefined;
}

/** So many may go at once, and afterwards so many in a second; both are whole numbers. */
export interface TokenBucket {
  readonly perSecond: number;
  /** At least `perSecond`: drivers count in milliseconds, or know no smaller one. */
  readonly burst: number;
}

export interface MicrovmSpec {
  readonly id: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly kernelPath: string;
  readonly initrdPath: string;
  /** Kernel command-line words; the driver adds its own (console, virtio-mmio devices). */
  readonly commandLine: readonly string[];
  /** Attached in this order: the first is /dev/vda. */
  readonly drives: readonly DriveSpec[];
  readonly network: {
    /** Name of the network namespace, as `ip netns` knows it. */
    readonly netns: string;
    readonly tap: string;
    readonly guestMac: string;
  };
  /** An existing directory for sockets and logs; whose it is is the driver's business. At most 80 bytes long: socket paths are bounded. */
  readonly runDir: string;
  readonly uid: number;
  readonly gid: number;
}

/** All that finds a microVM again. Plain data: it is stored as JSON in the journal. */
export interface MicrovmHandle {
  readonly driver: DriverName;
  /** The VMM's pid in the host's PID namespace. */
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat: with the pid it names one process for ever. */
  readonly startTime: string;
  /** Processes that stand between the agent and the VMM (the confinement's own), outermost first. */
  readonly wrappers: readonly { readonly pid: number; readonly startTime: string }[];
  readonly runDir: string;
}

export interface ExitReason {
  /** One sentence for people: `QEMU was killed by SIGKILL`. */
  readonly message: string;
  /** The last lines of the VMM's own log, oldest first; at most 20. */
  readonly log: readonly string[];
}

/** A microVM that stands still, as two files. Its disks are the caller's business. */
export interface SnapshotFiles {
  /** Processors and devices, in the VMM's own form. */
  readonly statePath: string;
  /** The guest's memory: a sparse file of exactly its size, without what is zero. Or a delta, in a form of its own. */
  readonly memoryPath: string;
}

export interface RestoreSpec extends MicrovmSpec {
  /** Root's own; the drives must be as they were then, under whatever paths. */
  readonly snapshot: SnapshotFiles;
  /** Of its memory, as `hashSparse` has it: what is not so is refused with `snapshot_corrupt`. Undefined if not known. */
  readonly memorySha256?: string | undefined;
  /** The same of its state. */
  readonly stateSha256?: string | undefined;
  /** What its memory differs by from that in `snapshot`. Needs `features.delta`. */
  readonly delta?: { readonly path: string; readonly sha256: string } | undefined;
  /** It goes on where the logs in its run directory end. */
  readonly keepsLogs?: boolean;
  /**
   * Others may be restored from the same memory, at any time: the VMM gets no way to write to it. Otherwise the
   * memory belongs to this microVM alone, and to `uid`.
   */
  readonly sharedMemory: boolean;
}

/** A running microVM. Every method has a deadline of its own besides the caller's signal. */
export interface Microvm {
  readonly handle: MicrovmHandle;
  /** Resolves once the VMM process is gone, for whatever reason; never rejects. Noticed within a second. */
  readonly exited: Promise<ExitReason>;
  status(signal: AbortSignal): Promise<'running' | 'paused'>;
  pause(signal: AbortSignal): Promise<void>;
  resume(signal: AbortSignal): Promise<void>;
  /**
   * Writes the microVM, which must be paused and stays so, to files that do not exist yet. They are not flushed to
   * the disk. `parentMemoryPath` is the memory that it was restored from, without a delta, and undefined for one that
   * booted: pages that have not changed since are taken from there, or left to it. On failure or abort the files may
   * be there in part.
   */
  snapshot(files: SnapshotFiles, options: SnapshotOptions): Promise<void>;
  /** The last lines of the guest's console, oldest first; at most `maxLines`. */
  consoleTail(maxLines: number): Promise<string[]>;
  /** What the VMM can say of a guest that does not come up: registers, status, console. For the log. */
  diagnose(signal: AbortSignal): Promise<string>;
  /** SIGKILL; resolves when the VMM and its wrappers are gone. Idempotent. Not cancellable. */
  kill(): Promise<void>;
  /** Lets go of sockets, timers and watchers without touching the microVM: the agent is shutting down. */
  detach(): void;
}

export interface SnapshotOptions {
  /** As in the spec: what is written has this size, whatever the VMM says. */
  readonly memoryMib: number;
  readonly parentMemoryPath: string | undefined;
  /** `delta` for only what differs from the parent, which must not change then; it needs `features.delta`. */
  readonly memory: 'whole' | 'delta';
  readonly signal: AbortSignal;
}

export interface VmmDriver {
  readonly name: DriverName;
  readonly features: DriverFeatures;
  /** Version of the VMM, as `7.2.22`. Throws `missing_program` where it is not installed. */
  version(signal: AbortSignal): Promise<string>;
  /**
   * Starts the VMM and the guest's CPUs. Returns when the VMM's own API answers, long before the guest
   * is up. On failure or abort nothing of it is left.
   * `onSpawned` is called with the handle as soon as there is a process to be cleaned up, so that it can be journalled.
   * It is done with before the guest runs, and before a launch that fails is told of.
   */
  launch(spec: MicrovmSpec, options: LaunchOptions): Promise<Microvm>;
  /**
   * The same from a snapshot of the same VMM version, memory size and devices: the guest stands where it was, paused,
   * until `resume`. Its memory is mapped privately, and read when it is needed.
   */
  restore(spec: RestoreSpec, options: LaunchOptions): Promise<Microvm>;
  /** The files of a snapshot are gone: nothing need be held of them any more. */
  forget?(snapshot: SnapshotFiles): void;
  /** The agent leaves: whatever is held for microVMs to come is let go. Those that run are not touched. */
  close?(): void;
  /** Takes a microVM over that an earlier agent launched. Throws `vmm_died` if it is gone. */
  adopt(handle: MicrovmHandle, signal: AbortSignal): Promise<Microvm>;
}

export interface LaunchOptions {
  readonly signal: AbortSignal;
  readonly onSpawned: (handle: MicrovmHandle) => Promise<void>;
}
