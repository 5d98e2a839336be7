/** What the API does by itself after each look at the agent: it ends what has ended, and sweeps what is nobody's. */
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import type { Logger } from '../log.ts';
import type { SandboxStore } from '../store/sandboxes.ts';
import type { Creations } from './creations.ts';
import type { Waker } from './waker.ts';
import { isGone, type Watcher } from './watcher.ts';

export interface Upkeep {
  /** Brings the store in line with an agent that went on while the API was away. */
  recover(): Promise<void>;
  /** Waits for what is under way. */
  settle(): Promise<void>;
}

export interface UpkeepDeps {
  readonly agent: Agent;
  readonly store: SandboxStore;
  readonly watcher: Watcher;
  readonly waker: Waker;
  readonly creations: Creations;
  readonly log: Logger;
}

export function createUpkeep({ agent, store, watcher, waker, creations, log }: UpkeepDeps): Upkeep {
  const underWay = new Set<Promise<void>>();
  const inBackground = (what: string, work: () => Promise<void>): void => {
    const promise: Promise<void> = work()
      .catch((err: unknown) => log.warn({ err }, what))
      .finally(() => underWay.delete(promise));
    underWay.add(promise);
  };
  let busy = false;

  watcher.onGone((id, ended) => {
    if (ended) inBackground('the end of a sandbox was not kept', () => store.markEnded([id], new Date()));
  });
  watcher.onRound((sandboxes) => {
    if (busy) return;
    busy = true;
    inBackground('upkeep failed', async () => {
      try {
        await creations.sweep(sandboxes);
        for (const sandbox of sandboxes) {
          await giveTime(sandbox).catch((err: unknown) =>
            log.warn({ sandboxId: sandbox.id, err }, 'a sandbox without a time was not given one'),
          );
        }
      } finally {
        busy = false;
      }
    });
  });

  /** Sandboxes of the API always end: one without a time is one whose waker died before it could set it. */
  const giveTime = async ({ id, state, endsAt }: AgentSandbox): Promise<void> => {
    if (state !== 'running' || endsAt !== undefined || waker.waking(id) !== undefined) return;
    const record = await store.get(id);
    if (record === undefined) return;
    const now = await agent.get(id);
    if (now.state !== 'running' || now.endsAt !== undefined || waker.waking(id) !== undefined) return;
    watcher.note(await agent.setTimeout(id, Math.max(1, record.timeoutMs)));
  };

  return {
    recover: async () => {
      await creations.recover();
      // In this order: what was in the store before the agent is asked must be in its answer.
      const records = await store.live();
      await watcher.round();
      const ended: string[] = [];
      for (const { id } of records) {
        if (!watcher.view.has(id) && (await isGone(agent, id))) ended.push(id);
      }
      await store.markEnded(ended, new Date());
    },
    settle: async () => void (await Promise.all(underWay)),
  };
}
