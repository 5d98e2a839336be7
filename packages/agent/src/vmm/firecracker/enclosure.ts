/**
 * Where a Firecracker runs: what is around the process, and what it calls the files that it is given. Two kinds: the
 * confinement that QEMU has too (here), and Firecracker's own jailer (jail.ts).
 */
import type { LaunchConfined } from '../confinement.ts';
import type { MicrovmSpec } from '../driver.ts';
import { drivePaths, largestWritable } from '../drives.ts';
import { lendRunDir, takeBackRunDir } from '../run-dir.ts';
import type { ConfinedLaunchOptions, ConfinedProcess, WrappedOutput } from '../wrapped-process.ts';
import type { MicrovmFiles } from './microvm.ts';

export interface Enclosure {
  /** What Firecracker calls its socket and the FIFO of its log. */
  readonly socket: string;
  readonly logFifo: string;
  /** The same microVM, with its files as Firecracker calls them. */
  readonly spec: MicrovmSpec;
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
}

/** In namespaces of its own, with every file where it is on the host. */
export function createPlainEnclosure(
  { program, spec, files }: EnclosureParts,
  launchConfined: LaunchConfined,
): Enclosure {
  return {
    socket: files.socket,
    logFifo: files.log.fifo,
    spec,
    prepare: () => lendRunDir(spec.runDir, spec),
    start: async (args, output, options) =>
      launchConfined(
        {
          program,
          args: ['--id', spec.id, ...args],
          uid: spec.uid,
          gid: spec.gid,
          netns: spec.network.netns,
          readOnlyPaths: [program, spec.kernelPath, spec.initrdPath, ...drivePaths(spec.drives, 'read-only')],
          writablePaths: [spec.runDir, ...drivePaths(spec.drives, 'writable')],
          devices: ['/dev/kvm', '/dev/net/tun'],
          // It ends by SIGXFSZ. Its log and the console are FIFOs, which have no size.
          maxFileBytes: await largestWritable(spec.drives),
          ...output,
        },
        options,
      ),
    seal: () => takeBackRunDir(spec.runDir),
  };
}
