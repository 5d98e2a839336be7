/** `wrenn agent`: the host agent in the foreground. */
import { loadConfig, parseConfig, runAgent } from '@wrenn/agent';
import { endWithParent } from '../supervisor.ts';
import { parseDurationMs } from '../values.ts';

export interface AgentOptions {
  readonly idleTimeout?: string;
  readonly logFile?: string;
  /** End when stdin does. */
  readonly withParent?: boolean;
}

export async function runAgentCommand(options: AgentOptions): Promise<void> {
  if (options.withParent === true) endWithParent();
  const config = loadConfig();
  const settings = {
    ...config,
    ...(options.idleTimeout === undefined
      ? {}
      : { idleTimeoutMs: parseDurationMs(options.idleTimeout, '--idle-timeout') }),
    log: { ...config.log, ...(options.logFile === undefined ? {} : { file: options.logFile }) },
  };
  await runAgent({
    config: parseConfig(settings),
    onReady: (socketPath) => {
      if (process.stderr.isTTY) process.stderr.write(`wrenn agent: listening on ${socketPath}\n`);
    },
  });
}
