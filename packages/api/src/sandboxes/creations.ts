/**
 * Every creation is noted in the store before the agent is asked, under a name that the sandbox carries in its
 * metadata. One that ends without an answer, or whose API died, leaves its note; what the agent made of it is
 * nobody's, and is destroyed.
 */
import { randomUUID } from 'node:crypto';
import { WrennError } from '@wrenn/protocol';
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import type { Logger } from '../log.ts';
import type { NewSandboxRecord, SandboxStore } from '../store/sandboxes.ts';

/** Of the agent's metadata; users may not set keys with this beginning. */
export const RESERVED_METADATA = 'wrenn.api.';
const CREATION_KEY = `${RESERVED_METADATA}creation`;

/** A creation that nobody waits for any more may still come to its end for so long. */
const ABANDONED_MS = 15 * 60_000;

export interface Made {
  readonly records: readonly NewSandboxRecord[];
  /** What its use is counted under, if it is. */
  readonly template?: string | undefined;
}

export interface Creations {
  /** `make` gets the metadata that its sandboxes must carry; what it returns is kept before this returns. */
  run(teamId: string, make: (metadata: Readonly<Record<string, string>>) => Promise<Made>): Promise<void>;
  /** Takes up what an API before this one left. */
  recover(): Promise<void>;
  /** Destroys what abandoned creations have made. */
  sweep(sandboxes: readonly AgentSandbox[]): Promise<void>;
}

/** Errors after which nobody knows whether the agent goes on. */
const UNKNOWN_OUTCOMES: ReadonlySet<string> = new Set([
  'deadline_exceeded',
  'agent_not_running',
  'cancelled',
]);

export function createCreations(agent: Agent, store: SandboxStore, log: Logger): Creations {
  const abandoned = new Map<string, number>();
  return {
    run: async (teamId, make) => {
      const id = randomUUID();
      await store.begin(id, teamId);
      let records: readonly NewSandboxRecord[] = [];
      try {
        const made = await make({ [CREATION_KEY]: id });
        records = made.records;
        await store.finish(id, records, made.template);
      } catch (thrown) {
        const error = WrennError.from(thrown);
        if (records.length > 0 || UNKNOWN_OUTCOMES.has(error.code)) abandoned.set(id, performance.now());
        else await store.finish(id, []).catch(() => abandoned.set(id, performance.now()));
        throw error;
      }
    },
    recover: async () => {
      for (const id of await store.unfinished()) abandoned.set(id, performance.now());
    },
    sweep: async (sandboxes) => {
      if (abandoned.size === 0) return;
      for (const { id, metadata, state } of sandboxes) {
        if (!abandoned.has(metadata[CREATION_KEY] ?? '') || state === 'creating') continue;
        log.warn({ sandboxId: id }, 'destroying a sandbox whose creation nobody waited for');
        // One that does not end is tried again the next time, and keeps nobody else from it.
        await agent.destroy(id).catch((err: unknown) => log.warn({ sandboxId: id, err }, 'it does not end'));
      }
      for (const [id, since] of abandoned) {
        if (performance.now() - since < ABANDONED_MS) continue;
        await store.finish(id, []);
        abandoned.delete(id);
      }
    },
  };
}
