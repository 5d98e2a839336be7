/** Wakes paused sandboxes: one call to the agent however many ask, and it ends with a timeout set. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import type { SandboxRecord, SandboxStore } from '../store/sandboxes.ts';
import type { Places } from './places.ts';
import type { Watcher } from './watcher.ts';

export interface Waker {
  /** `timeoutMs` counts from when it runs again; of several callers, the first one's. */
  wake(record: SandboxRecord, timeoutMs: number): Promise<AgentSandbox>;
  /** The one under way. */
  waking(id: string): Promise<AgentSandbox> | undefined;
  readonly size: number;
}

export interface WakerOptions {
  readonly agent: Agent;
  readonly store: SandboxStore;
  readonly watcher: Watcher;
  readonly places: Places;
  /** For one that is only just going to sleep. */
  readonly asleepTimeoutMs: number;
}

const POLL_MS = 50;

export function createWaker({ agent, store, watcher, places, asleepTimeoutMs }: WakerOptions): Waker {
  const flights = new Map<string, Promise<AgentSandbox>>();

  /** One whose memory is still being written is told of as paused: who asks for it then waits, and is not sent away. */
  const whenAsleep = async (id: string): Promise<AgentSandbox> => {
    const deadline = performance.now() + asleepTimeoutMs;
    for (;;) {
      const sandbox = await agent.get(id);
      if (sandbox.state !== 'hibernating' || performance.now() > deadline) return sandbox;
      await sleep(POLL_MS);
    }
  };

  const fly = async (record: SandboxRecord, timeoutMs: number): Promise<AgentSandbox> => {
    const { id } = record;
    const release = await places.toWake(record);
    try {
      // It goes on by itself where it could not be written.
      if ((await whenAsleep(id)).state !== 'running') await agent.resume(id);
      const sandbox = await agent.setTimeout(id, timeoutMs);
      watcher.note(sandbox);
      if (sandbox.endsAt !== undefined) await store.setTimeout(id, timeoutMs, sandbox.endsAt);
      return sandbox;
    } finally {
      release();
    }
  };

  return {
    wake: (record, timeoutMs) => {
      const { id } = record;
      const known = flights.get(id);
      if (known !== undefined) return known;
      const flight = fly(record, timeoutMs).finally(() => flights.delete(id));
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
