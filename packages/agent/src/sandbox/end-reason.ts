/** What a VMM cannot say of its end: that it was killed for want of memory, or what its guest's kernel last said. */
import { hasErrno } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { printable } from '../vmm/printable.ts';
import type { SandboxDeps } from './deps.ts';

const PANIC = /Kernel panic - not syncing: (.+)$/;
const PANIC_CHARS = 120;

/** The guest's kernel on its own panic, for the end of a reason; empty if it did not. The console is the guest's word. */
export function panicOf(console: readonly string[]): string {
  const words = console.map((line) => PANIC.exec(line)?.[1]).findLast((found) => found !== undefined);
  return words === undefined ? '' : ` Its kernel said: ${printable(words, PANIC_CHARS)}`;
}

/** To be asked while the sandbox still has its cgroup. Never rejects. */
export async function endReason({ cgroups }: SandboxDeps, id: string, message: string): Promise<string> {
  const killed = await cgroups.whyKilled(id);
  return killed === undefined ? message : `${message} ${killed}`;
}

/** The same for a failed creation. */
export async function explainFailure(deps: SandboxDeps, id: string, error: unknown): Promise<WrennError> {
  // The journal's, which no program writes that would say so in words.
  const failure = hasErrno(error, 'ENOSPC') ? diskFull(error) : WrennError.from(error);
  const message = await endReason(deps, id, failure.message);
  if (message === failure.message) return failure;
  return new WrennError(failure.code, message, {
    hint: 'Ask for more memory, or raise `cgroups.memoryOverheadMib`.',
    cause: error,
  });
}

/** Said as what it is: it is no fault of what the sandbox was made from. */
function diskFull(cause: unknown): WrennError {
  return new WrennError('disk_full', 'The disk of the host is full: the sandbox could not be journalled.', {
    hint: 'Destroy sandboxes or snapshots, or make room on the host.',
    cause,
  });
}
