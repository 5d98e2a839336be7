/**
 * What happens to a sandbox that is there: it is frozen, continued, handed over, written to the disk and woken. Each is
 * run by its queue, alone. The order of the journal and the deed is what a restarted agent relies on (recover.ts).
 */
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted, withDeadline } from '../signals/signals.ts';
import type { SnapshotDraft } from '../storage/snapshots.ts';
import type { CleanupStack } from './cleanup-stack.ts';
import {
  allOf,
  bringUp,
  type CreateContext,
  createStopwatch,
  initGuest,
  newEntropy,
  setUpSlot,
} from './create.ts';
import type { SandboxDeps } from './deps.ts';
import { copyOf, isOpen, slotEgress } from './egress.ts';
import { explainFailure } from './end-reason.ts';
import {
  assertOwnVmm,
  assertRestorable,
  assertRoom,
  fillDraft,
  toldIfFull,
  vmmOf,
  writeHibernation,
} from './hibernation.ts';
import type { JournalRecord } from './journal-record.ts';
import { createLaps } from './laps.ts';
import type { Phase } from './log.ts';
import { hibernationsOf } from './memory.ts';
import type { Claim, Holdings } from './sandbox-parts.ts';
import type { SandboxState } from './states.ts';

/** What of a sandbox these need, and nothing else changes. */
export interface SandboxCore {
  readonly id: string;
  readonly deps: SandboxDeps;
  record(): JournalRecord;
  save(change: Partial<JournalRecord>): Promise<void>;
  state(): SandboxState;
  become(next: SandboxState): void;
  /** Throws `internal` where there are none. */
  holdings(): Holdings;
  hold(held: Holdings): void;
  /** Takes away all that it holds but its files. Tells what could not be: that is tried again the next time. */
  letGo(): Promise<readonly string[]>;
  /** For what it is going to hold. */
  newMachine(): CleanupStack;
  /** Whoever waits for the guest is told; what runs in it goes on. */
  endStreams(error: WrennError): void;
  /** The guest stands still although the sandbox runs, and its streams are to be patient. */
  setFrozen(isFrozen: boolean): void;
  thawed(): void;
  /** It has no end for now. */
  disarm(): void;
  /** It ends when its record says so. */
  arm(): void;
  addPhase(phase: Phase): void;
  /** As failed, without waiting for it. */
  end(why: string): void;
  /** The guest has said, after its answer, that it did not take its settings. */
  refused(error: WrennError): void;
  onHibernated(id: string): void;
  onWaking(id: string): void;
}

export interface Transitions {
  changeTo(next: 'running' | 'paused', signal: AbortSignal): Promise<void>;
  takeOver(claim: Claim, signal: AbortSignal): Promise<void>;
  hibernate(signal: AbortSignal): Promise<void>;
  wake(signal: AbortSignal): Promise<void>;
  copyTo(draft: SnapshotDraft, signal: AbortSignal): Promise<void>;
}

/** By when a guest has answered that is well. */
const QUIESCE_MS = 10_000;

export function createTransitions(core: SandboxCore): Transitions {
  const { id, deps } = core;
  const { log, journal, config } = deps;
  const { timeouts } = config;

  /** Says what time it is: the guest's clock stood still. */
  const thawed = async ({ guest }: Holdings, signal: AbortSignal): Promise<void> => {
    core.thawed();
    await initGuest(guest, { envs: core.record().envs }, signal).catch((err: unknown) => {
      throwIfAborted(signal);
      log.warn({ sandboxId: id, err }, 'the guest agent did not answer after its pause');
    });
  };

  const pauseMicrovm = ({ microvm }: Holdings, signal: AbortSignal): Promise<void> =>
    withDeadline(`Pausing sandbox ${id}`, timeouts.pauseMs, signal, (limited) => microvm.pause(limited));
  const resumeMicrovm = ({ microvm }: Holdings, signal: AbortSignal): Promise<void> =>
    withDeadline(`Resuming sandbox ${id}`, timeouts.pauseMs, signal, (limited) => microvm.resume(limited));

  const turn = (held: Holdings, next: 'running' | 'paused', signal: AbortSignal): Promise<void> =>
    next === 'paused' ? pauseMicrovm(held, signal) : resumeMicrovm(held, signal);

  /** Freezes or continues the guest; afterwards the state is what the VMM says it is. */
  const changeTo = async (next: 'running' | 'paused', signal: AbortSignal): Promise<void> => {
    const held = core.holdings();
    const before = next === 'paused' ? 'running' : 'paused';
    await core.save({ state: next });
    try {
      await turn(held, next, signal);
    } catch (error) {
      throwIfAborted(signal);
      const actual = await withDeadline(
        'Asking the VMM',
        timeouts.pauseMs,
        signal,
        held.microvm.status,
      ).catch(() => undefined);
      if (actual !== next) {
        if (actual === undefined) await recall(held, before, signal);
        await core.save({ state: before });
        throw error;
      }
    }
    throwIfAborted(signal);
    core.become(next);
    if (next === 'running') await thawed(held, signal);
  };

  /** A VMM that says nothing may do late what it was told. It does one thing after the other: then this, whoever waits. */
  const recall = async (held: Holdings, state: 'running' | 'paused', signal: AbortSignal): Promise<void> => {
    throwIfAborted(signal);
    await turn(held, state, signal).catch((err: unknown) => {
      throwIfAborted(signal);
      log.warn({ sandboxId: id, state, err }, 'the VMM does not say that it does as before');
    });
  };

  const takeOver = async (claim: Claim, signal: AbortSignal): Promise<void> => {
    const held = core.holdings();
    const { envs, metadata, createdAtMs, endsAtMs, onTimeout, egress, phases } = claim;
    const startedAt = performance.now();
    const allEnvs = { ...core.record().envs, ...envs };
    const journalled = core.save({
      purpose: 'user',
      state: 'running',
      envs: allEnvs,
      metadata: { ...metadata },
      createdAtMs,
      endsAtMs: endsAtMs ?? null,
      onTimeout,
      egress: copyOf(egress),
      phases: phases.map((phase) => ({ ...phase })),
    });
    const goOn = async (): Promise<void> => {
      // Made without any rules of its own.
      if (!isOpen(egress)) {
        const { slotIndex, rateLimits } = core.record();
        await deps.network.setEgress(slotIndex, slotEgress(egress, rateLimits), signal);
      }
      await resumeMicrovm(held, signal);
      core.thawed();
      // Settings that seem older than those it has would change nothing, and nobody would know: it waits for long, and the
      // host's clock may have been set back meanwhile.
      const identity = { entropy: newEntropy() };
      // Nothing but its agent runs in it yet.
      await initGuest(held.guest, { envs: allEnvs, identity, onRefused: core.refused }, signal);
    };
    // Side by side: it holds nothing that is new, and as long as the journal says that it is the agent's own, whoever finds
    // it takes it away, however far it has come.
    await allOf(journalled, goOn());
    throwIfAborted(signal);
    core.addPhase({ name: 'claim', durationMs: Math.round((performance.now() - startedAt) * 1000) / 1000 });
    core.become('running');
    core.arm();
  };

  /** A VMM that has not said by its deadline that it stands still is no worse than any that is slow: it goes on later. */
  const goOn = async (held: Holdings, pausedInTime: boolean, signal: AbortSignal): Promise<void> =>
    pausedInTime ? orEnd(resumeMicrovm(held, signal), signal) : recall(held, 'running', signal);

  /** Its guest stands still and does not go on: it is at its end, and whoever asked is told why. */
  const orEnd = async (work: Promise<void>, signal: AbortSignal): Promise<void> => {
    try {
      await work;
    } catch (error) {
      throwIfAborted(signal);
      const failure = await explainFailure(deps, id, error);
      core.end(`It could not be continued: ${failure.message}`);
      throw failure;
    }
  };

  const hibernate = async (signal: AbortSignal): Promise<void> => {
    assertOwnVmm(deps, core.record());
    await assertRoom(deps, id);
    throwIfAborted(signal);
    const before = core.state() === 'paused' ? 'paused' : 'running';
    const held = core.holdings();
    const timed = createLaps();
    let [pausedInTime, isWritten] = [true, false];
    // The journal says what it was until it says that it sleeps: whoever finds it half done lets it go on like that.
    core.become('hibernating');
    // It was asked for in time, and what it ends in has none.
    core.disarm();
    try {
      await timed('pause', () => pauseMicrovm(held, signal)).catch((error: unknown) => {
        pausedInTime = !isLate(error);
        throw error;
      });
      const hibernation = await writeHibernation(deps, core.record(), held.microvm, timed, signal);
      isWritten = true;
      await timed('journal', () =>
        core.save({
          state: 'hibernated',
          hibernations: core.record().hibernations + 1,
          hibernation,
          vmm: vmmOf(deps, core.record()),
          handle: null,
          endsAtMs: null,
        }),
      );
    } catch (error) {
      throwIfAborted(signal);
      if (before === 'running') await goOn(held, pausedInTime, signal);
      if (isWritten) await takeBack(before);
      throwIfAborted(signal);
      core.become(before);
      if (before === 'running') await thawed(held, signal);
      throwIfAborted(signal);
      core.arm();
      throw toldIfFull(error);
    }
    throwIfAborted(signal);
    core.become('hibernated');
    // Only now: where the disk is full, say, it goes on, and its streams with it. The guest finds them open when it wakes, as
    // every copy does, and ends them because it has begun another life.
    core.endStreams(new WrennError('sandbox_wrong_state', `Sandbox ${id} hibernates.`));
    const removed = timed('remove', () =>
      journal.removeHibernations(id, hibernationsOf(core.record())),
    ).catch((err: unknown) => {
      log.warn({ sandboxId: id, err }, 'an earlier hibernation remains');
    });
    await timed('release', () => core.letGo());
    await removed;
    log.debug({ sandboxId: id, phases: timed.phases }, 'has hibernated');
    core.onHibernated(id);
  };

  /** The journal could not be written, or only that could not be made to last. First the room, which it may want. */
  const takeBack = async (state: 'running' | 'paused'): Promise<void> => {
    try {
      await journal.removeHibernations(id, hibernationsOf(core.record()));
      await core.save({ state });
    } catch (err) {
      log.error({ sandboxId: id, err }, 'the journal may still say that it hibernates');
    }
  };

  const wake = async (signal: AbortSignal): Promise<void> => {
    assertRestorable(deps, `Sandbox ${id}`, core.record().vmm);
    // Two of them would write to the same disk.
    if ((await core.letGo()).includes('microVM')) {
      throw new WrennError('internal', `Sandbox ${id} cannot be woken: its last VMM is still there.`, {
        hint: "It does not end although it was killed: the agent's log has the details. Try again later.",
      });
    }
    core.onWaking(id);
    const machine = core.newMachine();
    const timed = createStopwatch(deps);
    try {
      const slotIndex = deps.network.reserve();
      machine.register('slot', () => deps.network.release(slotIndex), { onlyAfterTheRest: true });
      const uid = config.uidBase + slotIndex;
      await core.save({ state: 'resuming', slotIndex, uid, bootId: deps.host.bootId });
      core.become('resuming');
      await journal.giveTo(id, uid);
      const context: CreateContext = {
        deps,
        start: { kind: 'wake' },
        cleanup: machine,
        timed,
        record: core.record,
        save: core.save,
        // From here on its files and its disk are no pair any more: it cannot go back to them.
        onThaw: () => core.save({ state: 'running' }),
        signal,
      };
      const woken = await bringUp(context, await setUpSlot(context));
      throwIfAborted(signal);
      core.become('running');
      core.thawed();
      core.hold(woken);
      log.debug({ sandboxId: id, phases: timed.phases }, 'has woken');
    } catch (error) {
      throwIfAborted(signal);
      if (core.record().state === 'running') throw await failedAwake(error);
      await core.letGo();
      // For whoever reads it, one that was being woken sleeps as well.
      await core.save({ state: 'hibernated', handle: null }).catch((err: unknown) => {
        log.warn({ sandboxId: id, err }, 'that it sleeps on could not be journalled');
      });
      if (core.state() === 'resuming') core.become('hibernated');
      core.onHibernated(id);
      throw error;
    }
  };

  /** Its guest has begun to run, and does not answer. Ends it from outside of the queue, which waits for this. */
  const failedAwake = async (error: unknown): Promise<WrennError> => {
    const failure = await explainFailure(deps, id, error);
    core.end(`It could not be woken: ${failure.message}`);
    return failure;
  };

  const copyTo = async (draft: SnapshotDraft, signal: AbortSignal): Promise<void> => {
    assertOwnVmm(deps, core.record());
    const held = core.holdings();
    if (core.state() === 'paused') return fillDraft(deps, core.record(), held.microvm, draft, signal);
    // A guest that does not do it is copied as it is.
    await withDeadline('Quiescing', QUIESCE_MS, signal, (limited) => held.guest.quiesce(limited)).catch(
      (err: unknown) => {
        throwIfAborted(signal);
        log.warn({ sandboxId: id, err }, 'the guest did not prepare for its copy');
      },
    );
    core.setFrozen(true);
    let pausedInTime = true;
    try {
      await pauseMicrovm(held, signal).catch((error: unknown) => {
        pausedInTime = !isLate(error);
        throw error;
      });
      await fillDraft(deps, core.record(), held.microvm, draft, signal);
    } finally {
      if (!signal.aborted) {
        // The journal says that it runs: an agent that comes after this one would do the same.
        await goOn(held, pausedInTime, signal);
        core.setFrozen(false);
        await thawed(held, signal);
      }
    }
  };

  return { changeTo, takeOver, hibernate, wake, copyTo };
}

function isLate(error: unknown): boolean {
  return error instanceof WrennError && error.code === 'deadline_exceeded';
}
