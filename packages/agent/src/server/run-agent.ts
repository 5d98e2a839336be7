/** The agent as a process of its own: signals, the exit code, and what to do with an error nobody expected. */
import { WrennError } from '@wrenn/protocol';
import type { AgentConfig } from '../config/schema.ts';
import { startAgent } from './daemon.ts';

export interface RunAgentOptions {
  readonly config: AgentConfig;
  /** Called when requests are answered. */
  readonly onReady?: (socketPath: string) => void;
}

/** More than a clean shutdown needs; then the process ends as it is, which the journal allows. */
const HARD_STOP_MS = 5_000;

/** Runs until SIGTERM, SIGINT or idleness. Throws what `startAgent` throws. */
export async function runAgent({ config, onReady }: RunAgentOptions): Promise<void> {
  const starting = new AbortController();
  let stop = (): void => starting.abort(new WrennError('cancelled', 'The start was interrupted.'));
  const onSignal = (): void => stop();
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
  // A terminal that is closed, or a pipe whose reader has left, is no reason to end.
  process.on('SIGHUP', () => {});
  try {
    const agent = await startAgent({ config, signal: starting.signal });
    stop = () => {
      setTimeout(() => process.exit(1), config.timeouts.shutdownMs + HARD_STOP_MS).unref();
      void agent.stop();
    };
    if (starting.signal.aborted) stop();
    onReady?.(agent.socketPath);
    await agent.stopped;
  } finally {
    process.off('SIGTERM', onSignal);
    process.off('SIGINT', onSignal);
  }
}
