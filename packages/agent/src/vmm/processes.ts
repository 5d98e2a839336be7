/** Ending processes that are nobody's child any more; names and liveness are the host package's. */
import { killProcess, type ProcessIdentity, waitUntilGone } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

const KILL_DEADLINE_MS = 10_000;
const KILL_POLL_MS = 5;

/** SIGKILL to each of those that still live; resolves when all are gone. */
export async function killAll(processes: readonly ProcessIdentity[]): Promise<void> {
  const signal = AbortSignal.timeout(KILL_DEADLINE_MS);
  await Promise.all(
    processes.map(async (process) => {
      if (!(await killProcess(process, 'SIGKILL'))) return;
      try {
        await waitUntilGone(process, { signal, pollMs: KILL_POLL_MS });
      } catch (error) {
        throw new WrennError('deadline_exceeded', `Process ${process.pid} did not end after SIGKILL.`, {
          hint: `It hangs in the kernel, probably on a disk; look at /proc/${process.pid}/stack.`,
          cause: error,
        });
      }
    }),
  );
}
