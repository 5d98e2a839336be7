/** The agent as a whole: puts every part together, and takes them apart in the reverse order. */
import type { AgentConfig } from '../config/schema.ts';

export interface StartAgentOptions {
  readonly config: AgentConfig;
}

export interface RunningAgent {
  readonly socketPath: string;
  /** Settles once the agent has ended, by `stop` or because it was idle. */
  readonly stopped: Promise<void>;
  /** Ends the agent and leaves every microVM running. Idempotent. */
  stop(): Promise<void>;
}

/** Throws `agent_already_running`, `missing_privilege`, `driver_unavailable`, `network_conflict`. */
export async function startAgent(_options: StartAgentOptions): Promise<RunningAgent> {
  throw new Error('being written');
}
