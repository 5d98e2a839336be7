/** The laboratory's QEMU, which comes with libraries and data of its own: the host's may be of any release. */
import { basename, join } from 'node:path';
import type { LabImage } from '@wrenn/images';
import type { Drives } from './kit.ts';

/** What a machine is made of; the drives are in the directory, where it also writes. */
export interface MachineFiles {
  readonly image: Pick<LabImage, 'kernelPath' | 'initrdPath' | 'rootfsPath'>;
  readonly drives: Drives;
  readonly directory: string;
}

export interface Emulator {
  /** The beginning of the command line; QEMU's arguments follow. It ends with the first process. */
  readonly command: readonly string[];
  /** The same files as QEMU sees them, by names that are not the host's: those may be below any directory. */
  readonly seen: MachineFiles;
}

const IMAGE = {
  kernelPath: '/lab/image/kernel',
  initrdPath: '/lab/image/initrd',
  rootfsPath: '/lab/image/rootfs',
} as const;
const DIRECTORY = '/lab/run';

export function emulatorOf(emulatorPath: string, { image, drives, directory }: MachineFiles): Emulator {
  const inRun = (path: string): string => join(DIRECTORY, basename(path));
  const bind = (how: string, from: string, to: string): string[] => [how, from, to];
  return {
    command: [
      'bwrap',
      ...[
        '--unshare-pid',
        '--unshare-net',
        '--unshare-ipc',
        '--unshare-uts',
        '--die-with-parent',
        '--as-pid-1',
      ],
      ...['usr', 'etc'].flatMap((name) => bind('--ro-bind', join(emulatorPath, name), `/${name}`)),
      ...['bin', 'lib', 'lib64'].flatMap((name) => ['--symlink', `usr/${name}`, `/${name}`]),
      ...['--dev', '/dev', '--proc', '/proc', '--tmpfs', '/tmp'],
      ...bind('--ro-bind', image.kernelPath, IMAGE.kernelPath),
      ...bind('--ro-bind', image.initrdPath, IMAGE.initrdPath),
      ...bind('--ro-bind', image.rootfsPath, IMAGE.rootfsPath),
      ...bind('--bind', directory, DIRECTORY),
      ...['--', '/usr/bin/qemu-system-x86_64'],
    ],
    seen: {
      image: IMAGE,
      drives: {
        kit: inRun(drives.kit),
        checkout: inRun(drives.checkout),
        scratch: inRun(drives.scratch),
      },
      directory: DIRECTORY,
    },
  };
}
