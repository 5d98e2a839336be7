/** The agent as a process of its own: signals, the exit code, and errors that nobody expected. */
import { WrennError } from '@wrenn/protocol';
import type { AgentConfig } from '../config/schema.ts';
import type { Checkpoint } from '../sandbox/deps.ts';
import { startAgent } from './daemon.ts';
import { createLogger } from './log.ts';

export interface RunAgentOptions {
  readonly config: AgentConfig;
  /** For tests: as for `startAgent`. */
  readonly checkpoint?: Checkpoint;
  /** Called when requests are answered. */
  readonly onReady?: (socketPath: string) => void;
}

/** More than a clean shutdown needs; then the process ends as it is, which the journal allows. */
const HARD_STOP_MS = 5_000;

/** Runs until SIGTERM, SIGINT or idleness. Throws what `startAgent` throws. */
export async function runAgent({ config, checkpoint, onReady }: RunAgentOptions): Promise<void> {
  const log = createLogger(config.log);
  const starting = new AbortController();
  let stop = (): void => starting.abort(new WrennError('cancelled', 'The start was interrupted.'));
  const onSignal = (): void => stop();
  // A terminal that is closed is no reason to end.
  const onHangup = (): void => log.info({}, 'the terminal was closed');
  // A mistake of ours: its state is unknown, so the next agent goes on from the journal.
  const onUnexpected = (err: unknown): void => {
    log.error({ err }, 'ending after an error that nobody expected; the microVMs go on');
    process.exit(1);
  };
  process.on('SIGTERM', onSignal).on('SIGINT', onSignal).on('SIGHUP', onHangup);
  process.on('uncaughtException', onUnexpected);
  try {
    const agent = await startAgent({
      config,
      signal: starting.signal,
      log,
      ...(checkpoint === undefined ? {} : { checkpoint }),
    });
    stop = () => {
      setTimeout(() => process.exit(1), config.timeouts.shutdownMs + HARD_STOP_MS).unref();
      void agent.stop();
    };
    if (starting.signal.aborted) stop();
    onReady?.(agent.socketPath);
    await agent.stopped;
  } finally {
    process.off('SIGTERM', onSignal).off('SIGINT', onSignal).off('SIGHUP', onHangup);
    process.off('uncaughtException', onUnexpected);
  }
}
