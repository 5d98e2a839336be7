/**
 * Where a Firecracker runs: what is around the process, and what it calls the files that it is given. Two kinds: the
 * confinement that QEMU has too (here), and Firecracker's own jailer (jail.ts).
 */
import type { Bind, LaunchConfined } from '../confinement.ts';
import type { MicrovmSpec, SnapshotFiles } from '../driver.ts';
import { largestWritable } from '../drives.ts';
import { lendRunDir, takeBackRunDir } from '../run-dir.ts';
import type { ConfinedLaunchOptions, ConfinedProcess, WrappedOutput } from '../wrapped-process.ts';
import type { MicrovmFiles } from './microvm.ts';

export interface Enclosure {
  /** What Firecracker calls its socket and the FIFO of its log. */
  readonly socket: string;
  readonly logFifo: string;
  /** The same microVM, with its files as Firecracker calls them. */
  readonly spec: MicrovmSpec;
  /** What it is restored from, as Firecracker calls that. */
  readonly snapshot: SnapshotFiles;
  /** Makes what must be there before the start. The run directory is empty, but for the FIFOs. */
  prepare(): Promise<void>;
  start(
    args: readonly string[],
    output: WrappedOutput,
    options: ConfinedLaunchOptions,
  ): Promise<ConfinedProcess>;
  /** Once its socket is there, and before the guest runs: no file can be made or replaced from then on. */
  seal(): Promise<void>;
}

export interface EnclosureParts {
  /** Real path of Firecracker. */
  readonly program: string;
  readonly spec: MicrovmSpec;
  readonly files: MicrovmFiles;
  /** On the host; undefined for one that boots. */
  readonly snapshot: SnapshotFiles | undefined;
}

/**
 * The host's files of a microVM and their names in an enclosure: the same in every one, as a snapshot has them in it.
 */
export function filesInside({ spec, snapshot }: EnclosureParts): Pick<Enclosure, 'spec' | 'snapshot'> & {
  readonly binds: readonly Bind[];
} {
  const names = {
    kernelPath: '/kernel',
    initrdPath: '/initrd',
    drives: spec.drives.map((drive) => ({ ...drive, path: `/drive-${drive.id}` })),
  };
  const restored = { statePath: '/restored.state', memoryPath: '/restored.memory' };
  const readOnly = (from: string, to: string): Bind => ({ from, to, readOnly: true });
  return {
    spec: { ...spec, ...names },
    snapshot: restored,
    binds: [
      ...(snapshot === undefined
        ? [readOnly(spec.kernelPath, names.kernelPath), readOnly(spec.initrdPath, names.initrdPath)]
        : [
            readOnly(snapshot.statePath, restored.statePath),
            readOnly(snapshot.memoryPath, restored.memoryPath),
          ]),
      ...spec.drives.map(({ id, path, readOnly }) => ({ from: path, to: `/drive-${id}`, readOnly })),
    ],
  };
}

/** The largest file that Firecracker has a reason to write: a drive, or the memory in a snapshot. */
export async function largestFile({ drives, memoryMib }: MicrovmSpec): Promise<number> {
  return Math.max(await largestWritable(drives), memoryMib * 1024 * 1024);
}

/** In namespaces of its own, with its run directory where it is on the host. */
export function createPlainEnclosure(parts: EnclosureParts, launchConfined: LaunchConfined): Enclosure {
  const { program, spec, files } = parts;
  const inside = filesInside(parts);
  return {
    socket: files.socket,
    logFifo: files.log.fifo,
    spec: inside.spec,
    snapshot: inside.snapshot,
    prepare: () => lendRunDir(spec.runDir, spec),
    start: async (args, output, options) =>
      launchConfined(
        {
          program,
          args: ['--id', spec.id, ...args],
          uid: spec.uid,
          gid: spec.gid,
          netns: spec.network.netns,
          readOnlyPaths: [program],
          writablePaths: [spec.runDir],
          binds: inside.binds,
          devices: ['/dev/kvm', '/dev/net/tun'],
          // It ends by SIGXFSZ. Its log and the console are FIFOs, which have no size.
          maxFileBytes: await largestFile(spec),
          ...output,
        },
        options,
      ),
    seal: () => takeBackRunDir(spec.runDir),
  };
}
