/** Where this package finds, in the checkout, what goes into guests. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { WrennError } from '@wrenn/protocol';

/** Debian's busybox-static. */
export const BUSYBOX_PATH = '/bin/busybox';

/** The checkout's root, found upwards from this file or from the bundle that it was built into. */
export function repositoryRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'packages/guest/init/init.sh'))) {
    const parent = dirname(directory);
    if (parent === directory) {
      throw new WrennError('not_set_up', "The guest's sources were not found next to this program.", {
        hint: 'Run Wrenn from its checkout.',
      });
    }
    directory = parent;
  }
  return directory;
}

export function initDirectory(): string {
  return join(repositoryRoot(), 'packages/guest/init');
}

/** The scripts that run inside of the laboratory's machine. */
export function labMachineDirectory(): string {
  return join(repositoryRoot(), 'lab/machine');
}
