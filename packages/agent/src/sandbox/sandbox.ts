/** One sandbox: what it holds, what may happen to it next, and how it ends. */
import { join } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted } from '../signals/signals.ts';
import { readKept } from '../vmm/output.ts';
import { adoptAgain } from './adoption.ts';
import { createBelongings } from './belongings.ts';
import { createSteps } from './create.ts';
import { createDeadline } from './deadline.ts';
import { copyOf, slotEgress } from './egress.ts';
import { explainFailure } from './end-reason.ts';
import type { Outlives } from './journal.ts';
import type { JournalRecord } from './journal-record.ts';
import { createLeases } from './leases.ts';
import type { Phase } from './log.ts';
import { createOperationQueue } from './operation-queue.ts';
import type { Holdings, Sandbox, SandboxParts } from './sandbox-parts.ts';
import {
  assertFollows,
  assertPossible,
  type Operation,
  type SandboxState,
  type StateView,
} from './states.ts';
import { createTransitions } from './transitions.ts';
import { type SandboxView, viewOf } from './view.ts';
import { createWatch, lastLinesOf } from './watch.ts';

/** After a sleep that failed: its guest stood still for it, and each time longer where the disk is full. */
const SLEEP_RETRY_MS = 60_000;
const SLEEP_RETRY_MAX_MS = 15 * 60_000;

export function createSandbox(parts: SandboxParts): Sandbox {
  const { deps } = parts;
  const { log, observer, journal, config } = deps;
  const { limits } = config;
  const { id } = parts.record;

  let { record, journalled } = parts;
  const belongings = createBelongings(deps, id, parts.cleanup, parts.machine);
  let { kept } = parts;
  let state: SandboxState = kept === undefined ? record.state : 'failed';
  let reason = kept?.why;
  let holdings: Holdings | undefined;
  let ending: Promise<void> | undefined;
  /** What those are told whom the end has interrupted. */
  let endError: WrennError | undefined;
  /** What is still there after the end. */
  let leftovers: string[] = [];
  let isGone = false;
  let isLeaving = false;
  let lastConsole: string[] = [];

  const queue = createOperationQueue(limits.maxQueuedOperations);
  const leases = createLeases(id, limits.maxStreamsPerSandbox);
  const timer = createDeadline(() => {
    log.info({ sandboxId: id, onTimeout: record.onTimeout }, 'the time to live is over');
    if (record.onTimeout === 'hibernate') return sleepOrTryAgain();
    destroy().catch((err: unknown) => log.error({ sandboxId: id, err }, 'an expired sandbox remains'));
  });

  /** When it is tried again, and how long after that once more. */
  let nextSleep = { atMs: 0, retryMs: SLEEP_RETRY_MS };

  /** What is to sleep is never destroyed for want of room; it runs on, and is tried again. */
  const sleepOrTryAgain = (): void => {
    hibernate().catch((err: unknown) => {
      if (ending !== undefined || isLeaving) return;
      const { retryMs } = nextSleep;
      log.error({ sandboxId: id, err, retryMs }, 'a sandbox whose time is over could not hibernate');
      nextSleep = { atMs: Date.now() + retryMs, retryMs: Math.min(2 * retryMs, SLEEP_RETRY_MAX_MS) };
      // It may have been given more time meanwhile.
      arm();
    });
  };

  const save = async (change: Partial<JournalRecord>, outlives: Outlives = 'host'): Promise<void> => {
    const next = { ...record, ...change };
    await journal.write(next, outlives);
    journalled = true;
    record = next;
  };

  const standing = (): StateView => {
    return { id, state, reason, keptAs: isKept() && kept?.hope !== 'none' ? record.state : undefined };
  };

  const view = (): SandboxView => {
    const { slot } = holdings ?? {};
    const { driver } = deps;
    const present = { ...standing(), isKept: isKept() };
    return viewOf(record, { ...present, address: slot?.address, driver: driver.name });
  };

  const become = (next: SandboxState): void => {
    assertFollows(state, next);
    state = next;
    log.info({ sandboxId: id, state }, 'state');
  };

  const watch = createWatch(
    deps,
    id,
    () => ending !== undefined,
    (why) => void end(why),
  );

  /** What was asked for and waits its turn, and how much time it gives: whoever asks in time is not too late. */
  const asked = new Set<{ readonly endsAtMs: number | null }>();
  const arm = (): void => {
    // Also where it was had at that very moment: whoever goes ends none.
    if (isLeaving) return;
    let latestMs = record.endsAtMs;
    for (const { endsAtMs } of asked) if (isLater(endsAtMs, latestMs)) latestMs = endsAtMs;
    if (latestMs === null) timer.set(undefined);
    else timer.set(record.onTimeout === 'hibernate' ? Math.max(latestMs, nextSleep.atMs) : latestMs);
  };

  const isArmed = (): boolean => holdings !== undefined && ending === undefined && !isLeaving;
  const inTime = async (
    wish: { readonly endsAtMs: number | null },
    work: () => Promise<void>,
  ): Promise<void> => {
    asked.add(wish);
    if (isArmed()) arm();
    try {
      await work();
    } finally {
      if (asked.delete(wish) && isArmed() && (state === 'running' || state === 'paused')) arm();
    }
  };

  const hold = (held: Holdings): void => {
    holdings = held;
    arm();
    // One that hibernates needs it no more, even before it is taken away.
    watch.over(held, () => ending !== undefined || holdings !== held || state === 'hibernated');
  };

  /** Once only. With a reason it stays in the list as failed, without one it is gone. */
  const end = (why: string | undefined): Promise<void> => {
    ending ??= endOnce(why);
    return ending;
  };

  const endOnce = async (why: string | undefined): Promise<void> => {
    reason = why;
    if (state !== 'destroying') become('destroying');
    timer.set(undefined);
    const error =
      why === undefined
        ? new WrennError('sandbox_not_found', `Sandbox ${id} was destroyed meanwhile.`)
        : new WrennError('sandbox_failed', `Sandbox ${id} has failed: ${why}`);
    endError = error;
    leases.close(error);
    await queue.close(error);
    try {
      if (journalled) await save({ state: 'destroying' });
    } catch (err) {
      // A full disk, say. All the more it must be destroyed; recovery does so in every state but two.
      log.warn({ sandboxId: id, err }, 'the end could not be journalled');
    }
    if (why !== undefined) lastConsole = await lastLinesOf(holdings?.microvm);
    await release();
  };

  const release = async (): Promise<void> => {
    leftovers = await belongings.releaseAll();
    if (leftovers.length > 0) reason = `${reason ?? ''} ${notAll(leftovers)}`.trim();
    if (reason === undefined) return gone();
    become('failed');
    parts.onFailed(id);
  };

  const gone = (): void => {
    if (isGone) return;
    isGone = true;
    observer.destroyed();
    log.info({ sandboxId: id }, 'gone');
    parts.onGone(id);
  };

  const destroy = async (): Promise<void> => {
    if (state === 'failed' && ending !== undefined) {
      // What could not be taken away the first time may be now.
      leftovers = await belongings.releaseAll();
    } else {
      await end(undefined);
    }
    if (leftovers.length > 0) throw new WrennError('internal', `Sandbox ${id}: ${notAll(leftovers)}`);
    // It may have failed meanwhile; whoever has it destroyed does not ask why.
    gone();
  };

  const requireHoldings = (): Holdings => {
    if (holdings !== undefined) return holdings;
    throw new WrennError('internal', `Sandbox ${id} has no microVM.`);
  };

  const transitions = createTransitions({
    id,
    deps,
    record: () => record,
    save,
    state: () => state,
    become,
    holdings: requireHoldings,
    hold,
    letGo: async () => {
      holdings = undefined;
      return belongings.releaseMachines();
    },
    newMachine: belongings.newMachine,
    endStreams: leases.endAll,
    setFrozen: leases.setFrozen,
    thawed: leases.thawed,
    disarm: () => timer.set(undefined),
    arm,
    addPhase: (phase) => {
      record = { ...record, phases: [...record.phases, phase] };
    },
    end: (why) => void end(why),
    refused: watch.refused,
    onHibernated: parts.onHibernated,
    onWaking: parts.onWaking,
  });

  /** Refused at once where it is not possible, and again when its turn has come. */
  const operate = async (
    operation: Operation,
    work: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> => {
    assertPossible(standing(), operation);
    await queue.run(async (signal) => {
      assertPossible(standing(), operation);
      await work(signal);
    });
  };

  const hibernate = (): Promise<void> => operate('hibernate', transitions.hibernate);

  const isKept = (): boolean => kept !== undefined && ending === undefined;
  const mayBeAdopted = (): boolean => isKept() && kept?.hope === 'later' && !isLeaving;
  if (parts.holdings !== undefined) hold(parts.holdings);
  // Nobody can give it more time. What is to sleep then cannot, and stays.
  else if (isKept() && record.onTimeout === 'destroy') arm();

  return {
    id,
    view,
    create: async (start, onThaw) => {
      try {
        await queue.run(async (signal) => {
          const { timed, machine } = parts;
          const thawing = onThaw === undefined ? {} : { onThaw };
          const phases = (): Phase[] => timed.phases.map((phase) => ({ ...phase }));
          // What is left for when the guest has answered is quick. The host's end is the same for one that runs and for one
          // that is being created; that the journal lacks the time of the last step is no matter.
          let running = async (): Promise<void> => {};
          const onSettling = async (): Promise<void> => {
            running = await journal.prepare({ ...record, state: 'running', phases: phases() });
          };
          const context = { deps, start, cleanup: machine, timed, record: () => record, save, signal };
          const created = await createSteps({ ...context, ...thawing, onSettling });
          throwIfAborted(signal);
          await running();
          record = { ...record, state: 'running', phases: phases() };
          throwIfAborted(signal);
          throwIfAborted(created.refused);
          become('running');
          hold(created);
        });
      } catch (error) {
        const failure = await explainFailure(deps, id, error);
        const told = endError ?? failure;
        await end(failure.message);
        throw told;
      }
    },
    claim: (claim) => operate('resume', (signal) => transitions.takeOver(claim, signal)),
    pause: () => operate('pause', (signal) => transitions.changeTo('paused', signal)),
    resume: () =>
      operate('resume', (signal) =>
        state === 'hibernated' ? transitions.wake(signal) : transitions.changeTo('running', signal),
      ),
    hibernate: async () => {
      assertPossible(standing(), 'hibernate');
      await inTime({ endsAtMs: null }, hibernate);
    },
    copyTo: async (draft) => {
      await operate('snapshot', (signal) => transitions.copyTo(draft, signal));
      return record;
    },
    setTimeout: async (timeoutMs) => {
      assertPossible(standing(), 'setTimeout');
      const wish = { endsAtMs: timeoutMs === undefined ? null : Date.now() + timeoutMs };
      await inTime(wish, () =>
        queue.run(async () => {
          assertPossible(standing(), 'setTimeout');
          asked.delete(wish);
          // Before the journal, which a full disk may refuse: this agent knows it all the same.
          record = { ...record, ...wish };
          nextSleep = { atMs: 0, retryMs: SLEEP_RETRY_MS };
          arm();
          await save(wish);
        }),
      );
    },
    setEgress: async (egress) => {
      assertPossible(standing(), 'setEgress');
      await queue.run(async (signal) => {
        assertPossible(standing(), 'setEgress');
        const { slotIndex, rateLimits } = record;
        await save({ egress: copyOf(egress) });
        if (holdings === undefined) return;
        await deps.network.setEgress(slotIndex, slotEgress(egress, rateLimits), signal);
      });
    },
    access: () => {
      assertPossible(standing(), 'access');
      const { accessToken } = record;
      return { address: state === 'running' ? holdings?.slot.address : undefined, accessToken };
    },
    destroy,
    mayBeAdopted,
    tryAgain: async () => {
      if (!mayBeAdopted()) return;
      await queue.run(async (signal) => {
        const fate = await adoptAgain(deps, record, parts.machine, signal);
        // Whoever destroys it waits for this, and ends what it holds by now.
        if (ending !== undefined) return;
        if (fate.kind === 'adopted') {
          record = fate.record;
          kept = undefined;
          reason = undefined;
          become(record.state);
          hold(fate.holdings);
        } else if (fate.kind === 'kept') {
          reason = fate.why;
        } else if (fate.kind !== 'asleep') {
          // Not waited for: it waits for the queue. What sleeps was never kept, and is nothing to end.
          void end(fate.why);
        }
      });
    },
    fail: (why) => end(why),
    use: () => {
      assertPossible(standing(), 'use');
      if (holdings === undefined) throw new WrennError('internal', `Sandbox ${id} has no guest.`);
      return leases.lend(holdings.guest, () => state === 'running');
    },
    consoleTail: async (maxLines) => {
      // Its console goes on where the file ends; every driver has it there.
      if (state === 'hibernated' || state === 'resuming' || isKept())
        return readKept(join(journal.files(id).runDir, 'console.log'), maxLines);
      if (holdings === undefined || state === 'failed') return lastConsole.slice(-maxLines);
      return holdings.microvm.consoleTail(maxLines);
    },
    detach: async () => {
      isLeaving = true;
      timer.set(undefined);
      const leaving = new WrennError('agent_not_running', 'The agent is shutting down.', {
        hint: 'The sandbox goes on; ask again when the agent is back.',
      });
      if (state === 'creating') return end('The agent was shut down during the creation.');
      if (record.purpose === 'own') return end(undefined);
      if (ending !== undefined) return ending;
      leases.close(leaving);
      await queue.close(leaving);
      holdings?.microvm.detach();
      holdings?.guest.close();
    },
  };
}

/** Null is never. */
function isLater(aMs: number | null, bMs: number | null): boolean {
  return bMs !== null && (aMs === null || aMs > bMs);
}

function notAll(leftovers: readonly string[]): string {
  return `Not all could be taken away: ${leftovers.join(', ')}. The agent's log has the details.`;
}
