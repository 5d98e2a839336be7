/** What a VMM that was killed cannot say itself: that it was for want of memory. */
import { WrennError } from '@wrenn/protocol';
import type { SandboxDeps } from './deps.ts';

/** To be asked while the sandbox still has its cgroup. Never rejects. */
export async function endReason({ cgroups }: SandboxDeps, id: string, message: string): Promise<string> {
  const killed = await cgroups.whyKilled(id);
  return killed === undefined ? message : `${message} ${killed}`;
}

/** The same for a failed creation. */
export async function explainFailure(deps: SandboxDeps, id: string, error: unknown): Promise<WrennError> {
  const failure = WrennError.from(error);
  const message = await endReason(deps, id, failure.message);
  if (message === failure.message) return failure;
  return new WrennError(failure.code, message, {
    hint: 'Ask for more memory, or raise `cgroups.memoryOverheadMib`.',
    cause: error,
  });
}
