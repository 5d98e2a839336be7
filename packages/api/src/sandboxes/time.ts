/** How long sandboxes still have. */
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import type { SandboxRecord, SandboxStore } from '../store/sandboxes.ts';
import type { Watcher } from './watcher.ts';

export interface Time {
  /** Sets it to so much from now. */
  give(record: SandboxRecord, timeoutMs: number): Promise<AgentSandbox>;
  /** As `give`, where that is more than it has: resolves with the sandbox as it is in either case. */
  extend(record: SandboxRecord, sandbox: AgentSandbox, timeoutMs: number): Promise<AgentSandbox>;
}

export interface TimeDeps {
  readonly agent: Agent;
  readonly store: SandboxStore;
  readonly watcher: Watcher;
}

/** Clients count in seconds: what is less is no extension. */
const EXTENSION_MIN_MS = 1000;

export function createTime({ agent, store, watcher }: TimeDeps): Time {
  const give = async (record: SandboxRecord, timeoutMs: number): Promise<AgentSandbox> => {
    const sandbox = await agent.setTimeout(record.id, Math.max(1, timeoutMs));
    watcher.note(sandbox);
    await store.setTimeout(record.id, timeoutMs, sandbox.endsAt ?? new Date(Date.now() + timeoutMs));
    return sandbox;
  };

  /** Many clients connect to one sandbox at once, and the agent has a queue for each: one of them asks for all. */
  const extensions = new Map<string, Promise<AgentSandbox>>();
  const extend = async (
    record: SandboxRecord,
    sandbox: AgentSandbox,
    timeoutMs: number,
  ): Promise<AgentSandbox> => {
    let known = sandbox;
    for (;;) {
      const missingMs = Date.now() + timeoutMs - (known.endsAt?.getTime() ?? 0);
      if (missingMs < EXTENSION_MIN_MS) return known;
      const underWay = extensions.get(record.id);
      if (underWay === undefined) break;
      known = await underWay.catch(() => known);
    }
    const extension = give(record, timeoutMs).finally(() => extensions.delete(record.id));
    extensions.set(record.id, extension);
    return await extension;
  };

  return { give, extend };
}
