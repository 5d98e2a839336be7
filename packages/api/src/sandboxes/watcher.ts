/**
 * Follows what the agent has: asks for its list at intervals, and tells what is gone. A sandbox is gone when it was
 * destroyed, paused or has failed, unless the agent keeps it; whoever ends one here says so at once and does not wait for the next round.
 */
import { WrennError } from '@wrenn/protocol';
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import type { Logger } from '../log.ts';
import { hasEnded, standingOf } from './view.ts';

export interface Watcher {
  /** As of the last round, and of what was noted since. */
  readonly view: ReadonlyMap<string, AgentSandbox>;
  /** Whether it did in the last round. */
  readonly agentAnswers: boolean;
  /** What somebody has just been told by the agent. */
  note(sandbox: AgentSandbox): void;
  /** That it does not run any more; `ended` if it never will again. */
  noteGone(id: string, ended: boolean): void;
  onGone(listener: (id: string, ended: boolean) => void): () => void;
  /** After each round, with all that there is. */
  onRound(listener: (sandboxes: readonly AgentSandbox[]) => void): () => void;
  /** A round now; those at intervals swallow errors, this does not. */
  round(): Promise<void>;
  start(): void;
  stop(): Promise<void>;
}

export interface WatcherOptions {
  readonly agent: Agent;
  readonly log: Logger;
  readonly intervalMs: number;
}

/**
 * What goes on with one that is kept: its guest may be well, and its owner's connections to it are not cut. The same for
 * one that is being put to sleep: where that fails it runs on, with its connections.
 */
const runs = (sandbox: AgentSandbox): boolean =>
  ['running', 'creating', 'hibernating'].includes(standingOf(sandbox));

/** Whoever was connected to it is so no more: it does not run, or has slept meanwhile and runs elsewhere. */
const isLeft = (before: AgentSandbox, now: AgentSandbox): boolean =>
  runs(before) && (!runs(now) || isElsewhere(before.address, now.address));

/** One that is kept, or not yet there, has none. */
const isElsewhere = (before: string, now: string): boolean => before !== '' && now !== '' && before !== now;

export function createWatcher({ agent, log, intervalMs }: WatcherOptions): Watcher {
  const view = new Map<string, AgentSandbox>();
  /** Which round an entry was noted in: a list that was asked for before does not know it. */
  const notedIn = new Map<string, number>();
  const goneListeners = new Set<(id: string, ended: boolean) => void>();
  const roundListeners = new Set<(sandboxes: readonly AgentSandbox[]) => void>();
  const stopped = new AbortController();
  let rounds = 0;
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> = Promise.resolve();
  let failing = false;

  const tellGone = (id: string, ended: boolean): void => {
    if (ended) view.delete(id);
    for (const listener of goneListeners) listener(id, ended);
  };

  const round = async (): Promise<void> => {
    rounds += 1;
    const thisRound = rounds;
    const sandboxes = await agent.list(stopped.signal);
    const listed = new Set<string>();
    for (const sandbox of sandboxes) {
      listed.add(sandbox.id);
      if ((notedIn.get(sandbox.id) ?? 0) >= thisRound) continue;
      const before = view.get(sandbox.id);
      if (hasEnded(sandbox)) {
        if (before !== undefined) tellGone(sandbox.id, true);
        continue;
      }
      view.set(sandbox.id, sandbox);
      if (before !== undefined && isLeft(before, sandbox)) tellGone(sandbox.id, false);
    }
    for (const id of [...view.keys()]) {
      const noted = (notedIn.get(id) ?? 0) >= thisRound;
      if (!listed.has(id) && !noted && (await isGone(agent, id))) tellGone(id, true);
    }
    for (const [id, noted] of notedIn) if (noted < thisRound) notedIn.delete(id);
    for (const listener of roundListeners) listener([...view.values()]);
  };

  const schedule = (): void => {
    if (stopped.signal.aborted) return;
    timer = setTimeout(() => {
      running = round()
        .then(() => {
          failing = false;
        })
        .catch((err: unknown) => {
          if (!failing && !stopped.signal.aborted) log.warn({ err }, 'the agent cannot be watched');
          failing = true;
        })
        .finally(schedule);
    }, intervalMs);
  };

  return {
    view,
    get agentAnswers() {
      return !failing;
    },
    note: (sandbox) => {
      const before = view.get(sandbox.id);
      view.set(sandbox.id, sandbox);
      notedIn.set(sandbox.id, rounds);
      if (before !== undefined && isLeft(before, sandbox)) tellGone(sandbox.id, false);
    },
    noteGone: (id, ended) => {
      const known = view.get(id);
      if (!ended && known !== undefined) {
        view.set(id, { ...known, state: 'hibernated', keptAs: undefined, address: '', endsAt: undefined });
        notedIn.set(id, rounds);
      }
      tellGone(id, ended);
    },
    onGone: (listener) => {
      goneListeners.add(listener);
      return () => void goneListeners.delete(listener);
    },
    onRound: (listener) => {
      roundListeners.add(listener);
      return () => void roundListeners.delete(listener);
    },
    round,
    start: schedule,
    stop: async () => {
      stopped.abort();
      clearTimeout(timer);
      await running;
    },
  };
}

/** An agent that has just begun may not have all in its list yet; what it says of one is true. */
export async function isGone(agent: Agent, id: string): Promise<boolean> {
  try {
    return hasEnded(await agent.get(id));
  } catch (error) {
    return error instanceof WrennError && error.code === 'sandbox_not_found';
  }
}
