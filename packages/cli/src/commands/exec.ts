/** `wrenn sandbox exec` and `shell`: a command in a sandbox that is there. */
import { withAgent } from '../agent-connection.ts';
import { runExecSession } from '../exec-session.ts';
import { catchInterrupts } from '../interrupts.ts';
import { type ProcessOptions, timeoutOf } from '../options.ts';
import { parsePairs } from '../values.ts';

/** Resolves with the command's exit code. */
export async function exec(id: string, command: readonly string[], options: ProcessOptions): Promise<number> {
  const envs = parsePairs(options.env ?? [], '--env');
  const timeoutMs = timeoutOf(options);
  const interrupts = catchInterrupts();
  try {
    return await withAgent((client) =>
      runExecSession(client, {
        sandboxId: id,
        command,
        envs,
        cwd: options.cwd ?? '',
        user: options.user ?? '',
        timeoutMs,
        stdin: options.stdin !== false,
        terminal: options.tty === true,
        interrupts,
      }),
    );
  } catch (error) {
    const exitCode = interrupts.exitCode();
    if (exitCode !== undefined) return exitCode;
    throw error;
  } finally {
    interrupts.release();
  }
}
