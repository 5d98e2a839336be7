/** Ends an agent that a command has started, so that the service's own can have its place. */
import { readFile } from 'node:fs/promises';
import { type AgentConfig, agentPaths } from '@wrenn/agent';
import { identify, killProcess, waitUntilGone } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { agentAnswers, ON_DEMAND_OPTION } from '../agent-connection.ts';

const END_TIMEOUT_MS = 90_000;
const POLL_MS = 50;

/**
 * Its sandboxes go on, and are the next agent's. To be called where the service does not run. Throws
 * `agent_already_running` for an agent that somebody has started by hand.
 */
export async function makeRoomForService(config: AgentConfig): Promise<void> {
  const { lockFile, socketPath } = agentPaths(config);
  if (!(await agentAnswers(socketPath))) return;
  const pid = Number(await readFile(lockFile, 'utf8').catch(() => ''));
  const agent = Number.isInteger(pid) && pid > 1 ? await identify(pid) : undefined;
  const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
  if (agent === undefined || !words.includes('agent') || !words.includes(ON_DEMAND_OPTION)) {
    throw new WrennError('agent_already_running', 'An agent that was started by hand runs already.', {
      hint: 'End it (`wrenn up` and `wrenn agent` by Ctrl+C), and run this once more. Its sandboxes stay.',
    });
  }
  await killProcess(agent, 'SIGTERM');
  await waitUntilGone(agent, { pollMs: POLL_MS, signal: AbortSignal.timeout(END_TIMEOUT_MS) });
}
