/**
 * All of a team's sandboxes that have not ended, as the store and the agent know them. Metadata makes that megabytes:
 * those who ask at the same time share one answer.
 */
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import type { SandboxRecord, SandboxStore } from '../store/sandboxes.ts';
import { shared } from './shared.ts';

export interface Listed {
  readonly record: SandboxRecord;
  readonly sandbox: AgentSandbox;
}

/** Newest first; without what the agent does not have. */
export type Listing = (teamId: string) => Promise<readonly Listed[]>;

export function createListing(agent: Agent, store: SandboxStore): Listing {
  const known = shared(async () => new Map((await agent.list()).map((sandbox) => [sandbox.id, sandbox])));
  return shared(async (teamId: string) => {
    const [records, sandboxes] = await Promise.all([store.live(teamId), known(undefined)]);
    return records.flatMap((record) => {
      const sandbox = sandboxes.get(record.id);
      return sandbox === undefined ? [] : [{ record, sandbox }];
    });
  });
}
