/** Ending processes that are nobody's child any more; names and liveness are the host package's. */
import { isAlive, killProcess, type ProcessIdentity, waitUntilGone } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

const KILL_DEADLINE_MS = 10_000;
const KILL_POLL_MS = 5;
/** bwrap needs about a millisecond to notice that its child is gone, and to go. */
const LEAVE_MS = 250;

/**
 * SIGKILL to the VMM, then to those of its wrappers that do not end by themselves with it; resolves when all
 * are gone. In this order because a wrapper that dies first leaves its child to init, to be reaped some time.
 */
export async function killAll([vmm, ...wrappers]: readonly ProcessIdentity[]): Promise<void> {
  if (vmm === undefined) return;
  try {
    await kill(vmm);
  } finally {
    await Promise.all(
      wrappers.map(async (wrapper) => {
        if (!(await leaves(wrapper))) await kill(wrapper);
      }),
    );
  }
}

async function kill(process: ProcessIdentity): Promise<void> {
  if (!(await killProcess(process, 'SIGKILL'))) return;
  try {
    await waitUntilGone(process, { signal: AbortSignal.timeout(KILL_DEADLINE_MS), pollMs: KILL_POLL_MS });
  } catch (error) {
    throw new WrennError('deadline_exceeded', `Process ${process.pid} did not end after SIGKILL.`, {
      hint: `It hangs in the kernel, probably on a disk; look at /proc/${process.pid}/stack.`,
      cause: error,
    });
  }
}

async function leaves(process: ProcessIdentity): Promise<boolean> {
  const deadline = performance.now() + LEAVE_MS;
  while (await isAlive(process)) {
    if (performance.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return true;
}
