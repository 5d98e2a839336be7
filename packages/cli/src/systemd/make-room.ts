/** Finds an agent that a command has started, and ends it so that the service's own can have its place. */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type AgentConfig, agentPaths, isLocked, lockHolder } from '@wrenn/agent';
import { identify, isAlive, killProcess, type ProcessIdentity } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { agentAnswers, ON_DEMAND_OPTION } from '../agent-connection.ts';

const END_TIMEOUT_MS = 90_000;
const POLL_MS = 50;

/**
 * Its sandboxes go on, and are the next agent's. To be called where the service does not run. Throws
 * `agent_already_running` for an agent that somebody has started by hand, and for one that does not end; or the signal's
 * reason.
 */
export async function makeRoomForService(
  config: AgentConfig,
  signal: AbortSignal,
  endTimeoutMs = END_TIMEOUT_MS,
): Promise<void> {
  const { socketPath, lockFile } = agentPaths(config);
  const answers = await agentAnswers(socketPath);
  // One that has only just been started, or is ending, has the directory all the same.
  if (!answers && !(await isLocked(lockFile))) return;
  const agent = await findOnDemandAgent(config);
  if (agent === undefined) {
    // Whoever it is, and is about to go or to answer: the service is started again until it has the directory.
    if (!answers) return;
    throw new WrennError('agent_already_running', 'An agent that was started by hand runs already.', {
      hint: 'End it (`wrenn up` and `wrenn agent` by Ctrl+C), and run this once more. Its sandboxes stay.',
    });
  }
  await killProcess(agent, 'SIGTERM');
  // Looked at by turns: in Node 20 a signal that is joined with a timeout may be collected as garbage, and never fire.
  const deadline = performance.now() + endTimeoutMs;
  while (await isAlive(agent)) {
    signal.throwIfAborted();
    if (performance.now() > deadline) throw doesNotEnd(agent, endTimeoutMs);
    await sleep(POLL_MS);
  }
}

/** The agent that has the directory, if it is one that a command has started. For root. */
export async function findOnDemandAgent(config: AgentConfig): Promise<ProcessIdentity | undefined> {
  const pid = await lockHolder(agentPaths(config).lockFile);
  const agent = pid === undefined ? undefined : await identify(pid);
  const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
  return words.includes('agent') && words.includes(ON_DEMAND_OPTION) ? agent : undefined;
}

function doesNotEnd({ pid }: ProcessIdentity, endTimeoutMs: number): WrennError {
  const who = `The agent that a command has started (process ${pid})`;
  return new WrennError('agent_already_running', `${who} did not end within ${endTimeoutMs / 1000} s.`, {
    hint: `Run this once more when it has ended; \`kill -9 ${pid}\` ends it if nothing else does. Its sandboxes stay.`,
  });
}
