/** Wakes paused sandboxes: one call to the agent however many ask, and it ends with a timeout set. */
import { WrennError } from '@wrenn/protocol';
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import type { SandboxStore } from '../store/sandboxes.ts';
import type { Watcher } from './watcher.ts';

export interface Waker {
  /** `timeoutMs` counts from when it runs again; of several callers, the first one's. */
  wake(id: string, timeoutMs: number): Promise<AgentSandbox>;
  /** The one under way. */
  waking(id: string): Promise<AgentSandbox> | undefined;
  readonly size: number;
}

export interface WakerOptions {
  readonly agent: Agent;
  readonly store: SandboxStore;
  readonly watcher: Watcher;
}

export function createWaker({ agent, store, watcher }: WakerOptions): Waker {
  const flights = new Map<string, Promise<AgentSandbox>>();

  const fly = async (id: string, timeoutMs: number): Promise<AgentSandbox> => {
    await agent.resume(id);
    const sandbox = await agent.setTimeout(id, timeoutMs);
    watcher.note(sandbox);
    if (sandbox.endsAt !== undefined) await store.setTimeout(id, timeoutMs, sandbox.endsAt);
    return sandbox;
  };

  return {
    wake: (id, timeoutMs) => {
      const known = flights.get(id);
      if (known !== undefined) return known;
      const flight = fly(id, timeoutMs).finally(() => flights.delete(id));
      flights.set(id, flight);
      return flight;
    },
    waking: (id) => flights.get(id),
    get size() {
      return flights.size;
    },
  };
}

/** As the promise, but not after the signal; what the promise stands for goes on. */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const cancelled = () => new WrennError('cancelled', 'The request was cancelled.');
  if (signal.aborted) throw cancelled();
  return await new Promise<T>((resolve, reject) => {
    const abort = () => reject(cancelled());
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
