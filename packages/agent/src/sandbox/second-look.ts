/** Looks again at what the agent's start could not adopt and keeps: what kept it from that may be over. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { SandboxDeps } from './deps.ts';
import type { Roster } from './roster.ts';

export interface SecondLook {
  start(): void;
  /** Nothing is begun any more; what is under way ends with its sandbox. */
  stop(): void;
}

export function createSecondLook({ config, log }: SandboxDeps, { all }: Pick<Roster, 'all'>): SecondLook {
  const stopping = new AbortController();
  const { signal } = stopping;
  const hopeful = () => all().filter((sandbox) => sandbox.mayBeAdopted());

  const look = async (): Promise<void> => {
    // None comes to be kept later.
    while (hopeful().length > 0) {
      await sleep(config.timeouts.adoptAgainMs, undefined, { signal, ref: false });
      // One by one: it may have been too much at once that kept them from it.
      for (const sandbox of hopeful()) {
        if (signal.aborted) return;
        await sandbox.tryAgain().catch((err: unknown) => {
          log.debug({ sandboxId: sandbox.id, err }, 'the second look at a sandbox was broken off');
        });
      }
    }
  };

  return {
    start: () => {
      // It rejects when it is stopped, and not otherwise.
      look().catch(() => {});
    },
    stop: () => stopping.abort(),
  };
}
