/** Whether what is on the disk of a snapshot still is what was written there. */
import { hashSparse } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

/** Throws `snapshot_corrupt`. Nothing where no hash was written down. */
export async function checkFile(
  path: string,
  sha256: string | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (sha256 === undefined || (await hashSparse(path, { signal })) === sha256) return;
  throw new WrennError('snapshot_corrupt', `${path} is not what was written there.`, {
    hint: 'The disk of the host may be failing. Start anew from the template, or from another snapshot.',
  });
}

/**
 * The same for whole memory. Reading and hashing it takes longer than restoring from it, so each file is looked at once
 * in the agent's life, at its first use.
 */
export interface MemoryChecks {
  check(path: string, sha256: string | undefined, signal: AbortSignal): Promise<void>;
}

/** Those that were looked at longest ago may be looked at again. */
const REMEMBERED_MAX = 4096;

export function createMemoryChecks(): MemoryChecks {
  const sound = new Set<string>();
  return {
    check: async (path, sha256, signal) => {
      const key = `${sha256} ${path}`;
      if (!sound.delete(key)) await checkFile(path, sha256, signal);
      sound.add(key);
      const [oldest = key] = sound;
      if (sound.size > REMEMBERED_MAX) sound.delete(oldest);
    },
  };
}
