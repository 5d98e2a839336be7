/** One sandbox: what it holds, what may happen to it next, and how it ends. */
import { setMaxListeners } from 'node:events';
import { WrennError } from '@wrenn/protocol';
import type { RateLimits } from '../config/rate-limits.ts';
import type { EnvdClient } from '../envd-client/client.ts';
import type { NetworkSlot } from '../network/slot.ts';
import { throwIfAborted, withDeadline, withinMs } from '../signals/signals.ts';
import type { SnapshotDraft } from '../storage/snapshots.ts';
import type { Microvm } from '../vmm/driver.ts';
import { type CleanupFailure, type CleanupStack, createCleanupStack } from './cleanup-stack.ts';
import {
  bringUp,
  type CreateContext,
  createSteps,
  createStopwatch,
  initGuest,
  type Start,
  type Stopwatch,
  setUpSlot,
} from './create.ts';
import { createDeadline } from './deadline.ts';
import type { SandboxDeps } from './deps.ts';
import { endReason, explainFailure, panicOf } from './end-reason.ts';
import type { GuestLease } from './guest.ts';
import { assertRestorable, fillDraft, writeHibernation } from './hibernation.ts';
import type { JournalRecord } from './journal.ts';
import type { Phase } from './log.ts';
import { createOperationQueue } from './operation-queue.ts';
import { assertFollows, assertPossible, type Operation, type SandboxState } from './states.ts';

export interface SandboxView {
  readonly id: string;
  readonly template: string;
  readonly state: SandboxState;
  /** Why it failed. */
  readonly reason: string | undefined;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  readonly rateLimits: RateLimits;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAtMs: number;
  readonly endsAtMs: number | undefined;
  /** Where the host reaches the guest. */
  readonly address: string | undefined;
  readonly vmmPid: number | undefined;
  readonly driver: string;
  /** That it was created from. */
  readonly snapshotId: string | undefined;
  /** It is the agent's own, and in no list. */
  readonly isOwn: boolean;
  readonly phases: readonly Phase[];
}

export interface Sandbox {
  readonly id: string;
  view(): SandboxView;
  /** Once, for a new one. On failure everything is taken away again before it rejects. */
  create(start: Start, onThaw?: CreateContext['onThaw']): Promise<void>;
  /** Makes one of the agent's own, which stands still, somebody's. */
  claim(claim: Claim): Promise<void>;
  pause(): Promise<void>;
  /** Continues a paused one, and wakes one that hibernates. */
  resume(): Promise<void>;
  /** To its files, and nothing else of it is left on the host. On failure it goes on as before. */
  hibernate(): Promise<void>;
  /** Copies it as it stands, into a draft; it goes on afterwards. The caller commits the draft, or discards it. */
  copyTo(draft: SnapshotDraft): Promise<JournalRecord>;
  /** From now; undefined means never. */
  setTimeout(timeoutMs: number | undefined): Promise<void>;
  /** Pre-empts whatever is going on. Calls at the same time share one outcome. */
  destroy(): Promise<void>;
  /** Ends it as failed: takes everything away and keeps the reason. Never rejects. */
  fail(reason: string): Promise<void>;
  /** Throws unless the sandbox is running. The lease's signal aborts when the sandbox ends. */
  use(): GuestLease;
  /** The guest's console; the last lines of it for one that has failed. */
  consoleTail(maxLines: number): Promise<string[]>;
  /** Lets go without touching the microVM: the agent is leaving. One that is being created is destroyed. */
  detach(): Promise<void>;
}

/** What is somebody's wish, and no part of what is restored. */
export interface Claim {
  readonly envs: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAtMs: number;
  readonly endsAtMs: number | undefined;
  readonly phases: readonly Phase[];
}

/** What a sandbox holds once it is running. */
export interface Holdings {
  readonly slot: NetworkSlot;
  readonly microvm: Microvm;
  readonly guest: EnvdClient;
}

export interface SandboxParts {
  readonly deps: SandboxDeps;
  readonly record: JournalRecord;
  /** Whether the record is on disk. */
  readonly journalled: boolean;
  /** Of its files, which last until the sandbox is gone. */
  readonly cleanup: CleanupStack;
  /** Of all else that it holds. */
  readonly machine: CleanupStack;
  readonly timed: Stopwatch;
  /** For one found at the agent's start. */
  readonly holdings?: Holdings;
  /** Nothing of it is left. */
  readonly onGone: (id: string) => void;
  /** It stays for its reason alone. */
  readonly onFailed: (id: string) => void;
  /** It holds nothing but files. */
  readonly onHibernated: (id: string) => void;
  /** It is about to hold more; throws if there is no room for it. */
  readonly onWaking: (id: string) => void;
}

const CONSOLE_LINES_KEPT = 50;
const CONSOLE_LINES_LOGGED = 20;
const CONSOLE_TIMEOUT_MS = 1_000;
/** By when a guest has answered that is well. */
const STREAMS_END_MS = 2_000;
const QUIESCE_MS = 10_000;

export function createSandbox(parts: SandboxParts): Sandbox {
  const { deps, cleanup } = parts;
  const { log, observer, journal, config } = deps;
  const { timeouts, limits } = config;
  const { id } = parts.record;

  let { record, journalled } = parts;
  /** The last is what it holds now; of earlier ones something could not be taken away. */
  let machines = [parts.machine];
  let state: SandboxState = record.state;
  let reason: string | undefined;
  let holdings: Holdings | undefined;
  let ending: Promise<void> | undefined;
  /** What those are told whom the end has interrupted. */
  let endError: WrennError | undefined;
  /** What is still there after the end. */
  let leftovers: string[] = [];
  let isGone = false;
  let lastConsole: string[] = [];
  let leases = 0;
  let thawedAtMs = 0;
  let isFrozen = false;

  const queue = createOperationQueue(limits.maxQueuedOperations);
  /** Aborts when the sandbox ends or hibernates: commands and transfers in it end with it. */
  let life = newLife();
  const timer = createDeadline(() => {
    log.info({ sandboxId: id }, 'the time to live is over');
    destroy().catch((err: unknown) => log.error({ sandboxId: id, err }, 'an expired sandbox remains'));
  });

  const save = async (change: Partial<JournalRecord>): Promise<void> => {
    const next = { ...record, ...change };
    await journal.write(next);
    journalled = true;
    record = next;
  };

  const view = (): SandboxView => ({
    id,
    template: record.template,
    state,
    reason,
    vcpus: record.vcpus,
    memoryMib: record.memoryMib,
    diskMib: record.diskMib,
    rateLimits: record.rateLimits,
    metadata: record.metadata,
    createdAtMs: record.createdAtMs,
    endsAtMs: record.endsAtMs ?? undefined,
    address: holdings?.slot.address,
    vmmPid: state === 'failed' ? undefined : record.handle?.pid,
    driver: record.handle?.driver ?? deps.driver.name,
    snapshotId: record.snapshotId ?? undefined,
    isOwn: record.purpose === 'own',
    phases: record.phases,
  });

  const become = (next: SandboxState): void => {
    assertFollows(state, next);
    state = next;
    log.info({ sandboxId: id, state }, 'state');
  };

  const hold = (held: Holdings): void => {
    holdings = held;
    timer.set(record.endsAtMs ?? undefined);
    void held.microvm.exited.then(async ({ message: howEnded, log: vmmLog }) => {
      if (holdings !== held) return;
      const [why, console] = await Promise.all([endReason(deps, id, howEnded), consoleOf(held.microvm)]);
      if (ending !== undefined) return;
      const message = `${why}${panicOf(console)}`;
      const consoleTail = console.slice(-CONSOLE_LINES_LOGGED);
      log.warn({ sandboxId: id, message, vmmLog, consoleTail }, 'the VMM ended by itself');
      observer.failed();
      void end(message);
    });
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
    life.abort(error);
    await queue.close(error);
    try {
      if (journalled) await save({ state: 'destroying' });
    } catch (err) {
      // A full disk, say. All the more it must be destroyed; recovery does so in every state but two.
      log.warn({ sandboxId: id, err }, 'the end could not be journalled');
    }
    if (why !== undefined) lastConsole = await consoleOf(holdings?.microvm);
    await release();
  };

  /** Its files last: they name the rest for as long as that is there. */
  const releaseMachines = async (): Promise<string[]> => {
    const failures: CleanupFailure[] = [];
    const kept: CleanupStack[] = [];
    for (const machine of machines.toReversed()) {
      const failed = await machine.release();
      failures.push(...failed);
      if (failed.length > 0) kept.unshift(machine);
    }
    machines = kept;
    return told(failures);
  };
  const told = (failures: readonly CleanupFailure[]): string[] => {
    for (const { step, error } of failures) {
      observer.cleanupFailed(step);
      log.error({ sandboxId: id, step, err: error }, 'something could not be taken away');
    }
    return failures.map(({ step }) => step);
  };
  const releaseAll = async (): Promise<string[]> => {
    const left = await releaseMachines();
    return left.length > 0 ? left : told(await cleanup.release());
  };

  const release = async (): Promise<void> => {
    leftovers = await releaseAll();
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
    if (state === 'failed') {
      // What could not be taken away the first time may be now.
      leftovers = await releaseAll();
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

  /** Whoever waits for the guest is told; what runs in it goes on. */
  const endStreams = (error: WrennError): void => {
    life.abort(error);
    life = newLife();
  };

  /** Says what time it is: the guest's clock stood still. */
  const thawed = async ({ guest }: Holdings, signal: AbortSignal): Promise<void> => {
    thawedAtMs = Date.now();
    await initGuest(guest, { envs: record.envs }, signal).catch((err: unknown) => {
      throwIfAborted(signal);
      log.warn({ sandboxId: id, err }, 'the guest agent did not answer after its pause');
    });
  };

  const pauseMicrovm = ({ microvm }: Holdings, signal: AbortSignal): Promise<void> =>
    withDeadline(`Pausing sandbox ${id}`, timeouts.pauseMs, signal, (limited) => microvm.pause(limited));
  const resumeMicrovm = ({ microvm }: Holdings, signal: AbortSignal): Promise<void> =>
    withDeadline(`Resuming sandbox ${id}`, timeouts.pauseMs, signal, (limited) => microvm.resume(limited));

  /** Freezes or continues the guest; afterwards the state is what the VMM says it is. */
  const changeTo = async (next: 'running' | 'paused', signal: AbortSignal): Promise<void> => {
    const held = requireHoldings();
    const before = next === 'paused' ? 'running' : 'paused';
    await save({ state: next });
    try {
      await (next === 'paused' ? pauseMicrovm(held, signal) : resumeMicrovm(held, signal));
    } catch (error) {
      throwIfAborted(signal);
      const actual = await withDeadline(
        'Asking the VMM',
        timeouts.pauseMs,
        signal,
        held.microvm.status,
      ).catch(() => before);
      if (actual !== next) {
        await save({ state: before });
        throw error;
      }
    }
    throwIfAborted(signal);
    become(next);
    if (next === 'running') await thawed(held, signal);
  };

  const takeOver = async (claim: Claim, signal: AbortSignal): Promise<void> => {
    const held = requireHoldings();
    const { envs, metadata, createdAtMs, endsAtMs, phases } = claim;
    const startedAt = performance.now();
    const handedOver = (): Phase => ({
      name: 'claim',
      durationMs: Math.round(performance.now() - startedAt),
    });
    await save({
      purpose: 'user',
      state: 'running',
      envs: { ...record.envs, ...envs },
      metadata: { ...metadata },
      createdAtMs,
      endsAtMs: endsAtMs ?? null,
      phases: phases.map((phase) => ({ ...phase })),
    });
    await resumeMicrovm(held, signal);
    thawedAtMs = Date.now();
    await initGuest(held.guest, { envs: record.envs }, signal);
    throwIfAborted(signal);
    record = { ...record, phases: [...record.phases, handedOver()] };
    become('running');
    timer.set(endsAtMs);
  };

  const hibernate = async (signal: AbortSignal): Promise<void> => {
    const before = state === 'paused' ? 'paused' : 'running';
    const held = requireHoldings();
    await save({ state: 'hibernating' });
    become('hibernating');
    try {
      // So that the guest knows that nobody listens any more: these connections do not wake up with it.
      endStreams(new WrennError('sandbox_wrong_state', `Sandbox ${id} hibernates.`));
      await held.guest.waitUntilHealthy(STREAMS_END_MS, signal).catch(() => throwIfAborted(signal));
      await pauseMicrovm(held, signal);
      await writeHibernation(deps, record, held.microvm, signal);
      await save({
        state: 'hibernated',
        hibernations: record.hibernations + 1,
        vmm: { driver: held.microvm.handle.driver, version: deps.driverVersion },
        handle: null,
        endsAtMs: null,
      });
    } catch (error) {
      throwIfAborted(signal);
      if (before === 'running') {
        await resumeMicrovm(held, signal);
        await thawed(held, signal);
      }
      await save({ state: before });
      become(before);
      throw error;
    }
    become('hibernated');
    timer.set(undefined);
    lastConsole = await consoleOf(held.microvm);
    holdings = undefined;
    await releaseMachines();
    await journal.removeHibernations(id, record.hibernations).catch((err: unknown) => {
      log.warn({ sandboxId: id, err }, 'an earlier hibernation remains');
    });
    parts.onHibernated(id);
  };

  const wake = async (signal: AbortSignal): Promise<void> => {
    assertRestorable(deps, `Sandbox ${id}`, record.vmm);
    parts.onWaking(id);
    const machine = createCleanupStack(timeouts.cleanupStepMs);
    machines.push(machine);
    try {
      const slotIndex = deps.network.reserve();
      machine.register('slot', () => deps.network.release(slotIndex));
      const uid = config.uidBase + slotIndex;
      await save({ state: 'resuming', slotIndex, uid, bootId: deps.host.bootId });
      become('resuming');
      await journal.giveTo(id, uid);
      const context: CreateContext = {
        deps,
        start: { kind: 'wake' },
        cleanup: machine,
        timed: createStopwatch(deps),
        record: () => record,
        save,
        // From here on its files and its disk are no pair any more: it cannot go back to them.
        onThaw: () => save({ state: 'running' }),
        signal,
      };
      const woken = await bringUp(context, await setUpSlot(context));
      throwIfAborted(signal);
      become('running');
      thawedAtMs = Date.now();
      hold(woken);
    } catch (error) {
      throwIfAborted(signal);
      if (record.state === 'running') throw await failedAwake(error);
      await releaseMachines();
      await save({ state: 'hibernated', handle: null });
      if (state === 'resuming') become('hibernated');
      parts.onHibernated(id);
      throw error;
    }
  };

  /** Its guest has begun to run, and does not answer. Ends it from outside of the queue, which waits for this. */
  const failedAwake = async (error: unknown): Promise<WrennError> => {
    const failure = await explainFailure(deps, id, error);
    void end(`It could not be woken: ${failure.message}`);
    return failure;
  };

  const copyTo = async (draft: SnapshotDraft, signal: AbortSignal): Promise<void> => {
    const held = requireHoldings();
    if (state === 'paused') return fillDraft(deps, record, held.microvm, draft, signal);
    // A guest that does not do it is copied as it is.
    await withDeadline('Quiescing', QUIESCE_MS, signal, (limited) => held.guest.quiesce(limited)).catch(
      (err: unknown) => {
        throwIfAborted(signal);
        log.warn({ sandboxId: id, err }, 'the guest did not prepare for its copy');
      },
    );
    isFrozen = true;
    try {
      await pauseMicrovm(held, signal);
      await fillDraft(deps, record, held.microvm, draft, signal);
    } finally {
      // The journal says that it runs: an agent that comes after this one would do the same.
      if (!signal.aborted) await resumeMicrovm(held, signal);
      isFrozen = false;
    }
    await thawed(held, signal);
  };

  /** Refused at once where it is not possible, and again when its turn has come. */
  const operate = async (
    operation: Operation,
    work: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> => {
    assertPossible({ id, state, reason }, operation);
    await queue.run(async (signal) => {
      assertPossible({ id, state, reason }, operation);
      await work(signal);
    });
  };

  if (parts.holdings !== undefined) hold(parts.holdings);

  return {
    id,
    view,
    create: async (start, onThaw) => {
      try {
        await queue.run(async (signal) => {
          const { timed, machine } = parts;
          const thawing = onThaw === undefined ? {} : { onThaw };
          const context = { deps, start, cleanup: machine, timed, record: () => record, save, signal };
          const created = await createSteps({ ...context, ...thawing });
          throwIfAborted(signal);
          await save({ state: 'running', phases: timed.phases.map((phase) => ({ ...phase })) });
          throwIfAborted(signal);
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
    claim: (claim) => operate('resume', (signal) => takeOver(claim, signal)),
    pause: () => operate('pause', (signal) => changeTo('paused', signal)),
    resume: () =>
      operate('resume', (signal) => (state === 'hibernated' ? wake(signal) : changeTo('running', signal))),
    hibernate: () => operate('hibernate', hibernate),
    copyTo: async (draft) => {
      await operate('snapshot', (signal) => copyTo(draft, signal));
      return record;
    },
    setTimeout: async (timeoutMs) => {
      assertPossible({ id, state, reason }, 'setTimeout');
      const endsAtMs = timeoutMs === undefined ? undefined : Date.now() + timeoutMs;
      await queue.run(async () => {
        assertPossible({ id, state, reason }, 'setTimeout');
        await save({ endsAtMs: endsAtMs ?? null });
        timer.set(endsAtMs);
      });
    },
    destroy,
    fail: (why) => end(why),
    use: () => {
      assertPossible({ id, state, reason }, 'use');
      if (holdings === undefined) throw new WrennError('internal', `Sandbox ${id} has no guest.`);
      if (leases >= limits.maxStreamsPerSandbox) {
        throw new WrennError(
          'too_many_streams',
          `Sandbox ${id} has ${leases} commands and transfers open already.`,
          { hint: 'Wait for some of them to end.' },
        );
      }
      leases++;
      let open = true;
      return {
        envd: holdings.guest,
        signal: life.signal,
        mayBeSilent: (forMs) => state !== 'running' || isFrozen || Date.now() - thawedAtMs < forMs,
        release: () => {
          if (open) leases--;
          open = false;
        },
      };
    },
    consoleTail: async (maxLines) => {
      if (holdings === undefined || state === 'failed') return lastConsole.slice(-maxLines);
      return holdings.microvm.consoleTail(maxLines);
    },
    detach: async () => {
      timer.set(undefined);
      const leaving = new WrennError('agent_not_running', 'The agent is shutting down.', {
        hint: 'The sandbox goes on; ask again when the agent is back.',
      });
      if (state === 'creating') return end('The agent was shut down during the creation.');
      if (ending !== undefined) return ending;
      life.abort(leaving);
      await queue.close(leaving);
      holdings?.microvm.detach();
      holdings?.guest.close();
    },
  };
}

function newLife(): AbortController {
  const life = new AbortController();
  // One listener for each command and transfer, as many as are allowed.
  setMaxListeners(0, life.signal);
  return life;
}

async function consoleOf(microvm: Microvm | undefined): Promise<string[]> {
  if (microvm === undefined) return [];
  try {
    return await withinMs(CONSOLE_TIMEOUT_MS, 'Reading the console', microvm.consoleTail(CONSOLE_LINES_KEPT));
  } catch {
    return ['(the console could not be read)'];
  }
}

function notAll(leftovers: readonly string[]): string {
  return `Not all could be taken away: ${leftovers.join(', ')}. The agent's log has the details.`;
}
