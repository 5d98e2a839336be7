/** `wrenn run`: one command in a machine of its own, which is gone afterwards. */
import { WrennError } from '@wrenn/protocol';
import { withAgent } from '../agent-connection.ts';
import { runExecSession } from '../exec-session.ts';
import { catchInterrupts } from '../interrupts.ts';
import { keepLease, LEASE_MS } from '../lease.ts';
import { createRequest, type MachineOptions, type ProcessOptions, timeoutOf } from '../options.ts';
import { createProgress } from '../output.ts';
import { parsePairs } from '../values.ts';

/** Resolves with the command's exit code. */
export async function run(
  command: readonly string[],
  options: MachineOptions & ProcessOptions,
): Promise<number> {
  const request = createRequest({ ...options, env: [] }, LEASE_MS);
  const envs = parsePairs(options.env ?? [], '--env');
  const timeoutMs = timeoutOf(options);
  const progress = createProgress(process.stderr.isTTY === true);
  const interrupts = catchInterrupts();
  try {
    return await withAgent(async (client) => {
      progress('booting a machine …');
      // Not aborted by an interrupt: a creation that nobody waits for would live until its lease ends.
      const { sandbox } = await client.sandboxes.createSandbox(request);
      if (sandbox === undefined) throw new WrennError('internal', 'The agent answered without a sandbox.');
      const lease = keepLease(client, sandbox.id);
      try {
        if (interrupts.signal.aborted) throw interrupts.signal.reason;
        return await runExecSession(client, {
          sandboxId: sandbox.id,
          command,
          envs,
          cwd: options.cwd ?? '',
          user: options.user ?? '',
          timeoutMs,
          stdin: options.stdin !== false,
          terminal: options.tty === true,
          interrupts,
        });
      } finally {
        lease.stop();
        await client.sandboxes.destroySandbox({ id: sandbox.id });
      }
    });
  } catch (error) {
    const exitCode = interrupts.exitCode();
    if (exitCode !== undefined) return exitCode;
    throw error;
  } finally {
    interrupts.release();
  }
}
