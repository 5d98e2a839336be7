/** `wrenn sandbox cp`: files and directories between the host and a sandbox, and through pipes. */
import { pipeline } from 'node:stream/promises';
import { WrennError } from '@wrenn/protocol';
import { withAgent } from '../agent-connection.ts';
import { type Guest, readFile, writeFile } from '../copy/guest-files.ts';
import { createSkips } from '../copy/skips.ts';
import { copyToGuest } from '../copy/to-guest.ts';
import { copyToHost } from '../copy/to-host.ts';
import { parseCopyPlace } from '../values.ts';

export interface CopyOptions {
  readonly user?: string;
  readonly json?: boolean;
}

export async function copy(from: string, to: string, options: CopyOptions): Promise<void> {
  const [source, target] = [parseCopyPlace(from), parseCopyPlace(to)];
  const skips = createSkips((line) => process.stderr.write(`${line}\n`), options.json === true);
  const inSandbox = (sandboxId: string, work: (guest: Guest) => Promise<void>) =>
    withAgent((client) => work({ client, sandboxId, user: options.user ?? '' })).finally(skips.end);
  if (target.kind === 'sandbox' && source.kind !== 'sandbox') {
    await inSandbox(target.id, async (guest) => {
      if (source.kind === 'standard') await writeFile(guest, process.stdin, target.path, undefined);
      else await copyToGuest(guest, source.path, target.path, skips);
    });
  } else if (source.kind === 'sandbox' && target.kind !== 'sandbox') {
    await inSandbox(source.id, async (guest) => {
      if (target.kind === 'standard')
        await pipeline(readFile(guest, source.path), process.stdout, { end: false });
      else await copyToHost(guest, source.path, target.path, skips);
    });
  } else {
    throw new WrennError(
      'invalid_argument',
      'One of the two places must be in a sandbox, the other one outside.',
      {
        hint: 'wrenn sandbox cp ./file <id>:/home/user/   or   wrenn sandbox cp <id>:/etc/os-release -',
      },
    );
  }
}
