/** Removes a path with all below it, whatever else removes things there at the same time. */
import { lstat, rm } from 'node:fs/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import { isMissing } from './fs-errors.ts';

/** Each round takes something away, unless others make it anew all the time. */
const REMOVE_MAX_MS = 30_000;

/** A path that leads to nothing is removed already. Throws the reason of `signal` once nobody waits any more. */
export async function removeTree(path: string, signal: AbortSignal): Promise<void> {
  const endsAtMs = performance.now() + REMOVE_MAX_MS;
  for (;;) {
    try {
      // With `force` it would not tell what it has left.
      await rm(path, { recursive: true });
      return;
    } catch (error) {
      // Also where an entry below has gone when Bun comes to it: it then leaves all the rest.
      if (!isMissing(error)) throw error;
    }
    const isThere = await lstat(path).then(() => true, rejectUnlessMissing);
    if (!isThere) return;
    signal.throwIfAborted();
    if (performance.now() > endsAtMs) {
      throw new ConnectError(`cannot remove ${path}: something else changes it all the time`, Code.Aborted);
    }
  }
}

function rejectUnlessMissing(error: unknown): false {
  if (isMissing(error)) return false;
  throw error;
}
