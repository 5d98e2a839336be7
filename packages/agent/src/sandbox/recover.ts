/**
 * What an agent before this one has left. The journal says what there should be, the processes say what there
 * is: what runs is adopted, everything else is taken away, and nothing is guessed at.
 */
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted, withDeadline } from '../signals/signals.ts';
import { createCleanupStack } from './cleanup-stack.ts';
import { createStopwatch, endProcesses, initGuest, killAll, removeCgroup } from './create.ts';
import type { SandboxDeps } from './deps.ts';
import { slotEgress } from './egress.ts';
import { endReason } from './end-reason.ts';
import type { CorruptJournal, JournalRecord } from './journal.ts';
import { hibernationsOf } from './memory.ts';
import type { Roster } from './roster.ts';
import { createSandbox, type Holdings, type SandboxParts } from './sandbox.ts';

interface Found {
  readonly record: JournalRecord;
  /** Undefined for one that hibernates, or is only to be taken away. */
  readonly holdings: Holdings | undefined;
  readonly isAsleep?: true;
  /** Why it is lost; undefined for one whose destruction was under way. */
  readonly lostBecause: string | undefined;
}

/** Puts into the roster all that there is; those that were lost end there, and stay for their reason. */
export async function recover(
  deps: SandboxDeps,
  roster: Pick<Roster, 'events' | 'adopt'>,
  signal: AbortSignal,
): Promise<void> {
  const { records, corrupt } = await deps.journal.readAll();
  const doubtful = withoutClashes(records);
  const examined = await Promise.allSettled(doubtful.records.map((record) => examine(deps, record, signal)));
  const found = examined.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
  try {
    for (const outcome of examined) if (outcome.status === 'rejected') throw outcome.reason;
    await settle(deps, roster, found, [...corrupt, ...doubtful.clashing], signal);
  } catch (error) {
    for (const { holdings } of found) {
      holdings?.microvm.detach();
      holdings?.guest.close();
    }
    throw error;
  }
}

/** Takes away what is not adopted, first from the kernel and then from the disk. */
async function settle(
  deps: SandboxDeps,
  { events, adopt }: Pick<Roster, 'events' | 'adopt'>,
  found: readonly Found[],
  corrupt: readonly CorruptJournal[],
  signal: AbortSignal,
): Promise<void> {
  for (const journal of corrupt) await endCorrupt(deps, journal);
  const inUse = new Set(found.filter(({ holdings }) => holdings !== undefined).map(slotOf));
  const removed = await deps.network.start(inUse, signal);
  if (removed.length > 0)
    deps.log.warn({ slots: removed }, 'slots that an earlier agent left were taken away');

  // The network's names are the agent's own, or its start had failed: so are the groups of the same prefix.
  // One that hibernates has none either.
  const awake = found.filter(({ isAsleep }) => isAsleep !== true);
  await removeStrayCgroups(deps, new Set(awake.map(({ record }) => record.id)));

  // Only now: what is in these directories names what was to be taken away first.
  for (const { id } of corrupt) await removeCorrupt(deps, id);
  const prepared = await Promise.all(found.map(async (one) => ({ ...one, parts: await prepare(deps, one) })));
  // All of them, before any can end: whoever hears of an end asks the roster what the others use.
  const recovered = prepared.map(({ parts, ...one }) => {
    return { ...one, sandbox: createSandbox({ ...parts, ...events }) };
  });
  adopt(recovered.map(({ sandbox }) => sandbox));
  const lost = recovered.filter(({ holdings, isAsleep }) => holdings === undefined && isAsleep !== true);
  await Promise.all(
    lost.map(async ({ sandbox, lostBecause }) => {
      // Nobody could ask what became of it: told only when there is something to tell.
      if (lostBecause === undefined) await sandbox.destroy().catch(() => {});
      else await sandbox.fail(lostBecause);
    }),
  );
}

function slotOf({ record }: Found): number {
  return record.slotIndex;
}

/** Two sandboxes cannot have one slot: only the journals of one can be right. */
function withoutClashes(records: readonly JournalRecord[]): {
  records: JournalRecord[];
  clashing: CorruptJournal[];
} {
  const bySlot = new Map<number, JournalRecord>();
  const clashing: CorruptJournal[] = [];
  // One that hibernates has none, whatever its record says of the last one; one that was being woken loses its own,
  // which another may have been given already when the wake had failed.
  const isAsleep = ({ state }: JournalRecord): boolean => state === 'hibernated' || state === 'resuming';
  const asleep = records.filter(isAsleep);
  const holding = records.filter((record) => !isAsleep(record));
  for (const record of holding.sort((a, b) => rank(a) - rank(b))) {
    const other = bySlot.get(record.slotIndex);
    if (other === undefined) bySlot.set(record.slotIndex, record);
    else clashing.push({ id: record.id, uid: record.uid, problem: `its slot is that of ${other.id}` });
  }
  return { records: [...bySlot.values(), ...asleep], clashing };
}

/** Those that may be adopted come first. */
function rank({ state }: JournalRecord): number {
  return state === 'running' || state === 'paused' || state === 'hibernating' ? 0 : 1;
}

async function examine(deps: SandboxDeps, record: JournalRecord, signal: AbortSignal): Promise<Found> {
  const { id, state, handle, purpose } = record;
  const lost = async (lostBecause: string | undefined): Promise<Found> => {
    if (record.bootId === deps.host.bootId) await endProcesses(deps, record);
    return { record, holdings: undefined, lostBecause };
  };
  if (state === 'hibernated' || state === 'resuming') {
    // Its guest has not run since: the journal would say so.
    if (record.bootId === deps.host.bootId) await endProcesses(deps, record);
    return { record, holdings: undefined, isAsleep: true, lostBecause: undefined };
  }
  if (purpose === 'own' && record.bootId !== deps.host.bootId) return lost(undefined);
  if (record.bootId !== deps.host.bootId) return lost('The host was restarted.');
  if (state === 'destroying' || purpose === 'own') return lost(undefined);
  if (state === 'creating') return lost('The agent ended during the creation.');
  if (record.uid !== deps.config.uidBase + record.slotIndex) return lost('The configured uids have changed.');
  if (handle === null) return lost('Its journal names no microVM.');
  try {
    const holdings = await adopt(deps, record, handle, signal);
    return { record, holdings, lostBecause: undefined };
  } catch (err) {
    // An agent that is told to go while it starts has learnt nothing about its sandboxes.
    throwIfAborted(signal);
    deps.log.warn({ sandboxId: id, err }, 'a sandbox of an earlier agent could not be adopted');
    const { message } = WrennError.from(err);
    const why = await endReason(deps, id, message);
    return lost(`The microVM ended while no agent ran, or could not be adopted: ${why}`);
  }
}

async function adopt(
  deps: SandboxDeps,
  record: JournalRecord,
  handle: NonNullable<JournalRecord['handle']>,
  signal: AbortSignal,
): Promise<Holdings> {
  const { adoptMs } = deps.config.timeouts;
  const microvm = await withDeadline('Adopting the microVM', adoptMs, signal, (limited) =>
    deps.driverNamed(handle.driver).adopt(handle, limited),
  );
  const slot = deps.network.describe(record.slotIndex);
  return { slot, microvm, guest: deps.connectGuest(slot.address, record.accessToken) };
}

/** Brings the host and the journal in line with what was found. */
async function prepare(
  deps: SandboxDeps,
  { record, holdings, isAsleep }: Found,
): Promise<Omit<SandboxParts, keyof Roster['events']>> {
  const { cleanupStepMs } = deps.config.timeouts;
  const [cleanup, machine] = [createCleanupStack(cleanupStepMs), createCleanupStack(cleanupStepMs)];
  const parts = { deps, journalled: true, cleanup, machine, timed: createStopwatch(deps) };
  cleanup.register('files', () => deps.journal.remove(record.id));
  registerMachine(deps, machine, record, holdings);
  await deps.journal.removeHibernations(record.id, hibernationsOf(record)).catch((err: unknown) => {
    deps.log.warn({ sandboxId: record.id, err }, 'an earlier hibernation remains');
  });
  if (isAsleep) {
    const asleep = { ...record, state: 'hibernated' as const, handle: null };
    if (record.state !== 'hibernated') await writeIfPossible(deps, asleep);
    deps.log.info({ sandboxId: record.id }, 'hibernates');
    return { ...parts, record: asleep };
  }
  if (holdings === undefined) return { ...parts, record };
  await restoreRules(deps, record);
  const actual = await actualState(deps, record, holdings);
  const adopted = { ...record, state: actual };
  if (actual !== record.state) await writeIfPossible(deps, adopted);
  deps.observer.adopted();
  deps.log.info({ sandboxId: record.id, state: actual }, 'adopted');
  if (actual === 'running') greet(deps, adopted, holdings);
  return { ...parts, record: adopted, holdings };
}

/**
 * A full disk is no reason not to start: what the journal says instead means the same to the next agent, and somebody has
 * to be there with whom sandboxes can be destroyed.
 */
async function writeIfPossible({ journal, log }: SandboxDeps, record: JournalRecord): Promise<void> {
  await journal.write(record).catch((err: unknown) => {
    log.error({ sandboxId: record.id, err }, 'what was found could not be journalled');
  });
}

/** What a creation would have registered. */
function registerMachine(
  deps: SandboxDeps,
  cleanup: SandboxParts['machine'],
  record: JournalRecord,
  holdings: Holdings | undefined,
): void {
  const { id, slotIndex } = record;
  // A slot that is not in use was taken away by the network's start, and may be another sandbox's by now.
  if (holdings !== undefined) {
    cleanup.register('slot', () => deps.network.release(slotIndex), { onlyAfterTheRest: true });
  }
  cleanup.register('cgroup', () => removeCgroup(deps, id), { onlyAfterTheRest: true });
  if (holdings === undefined) return;
  cleanup.register('guest connections', async () => holdings.guest.close());
  cleanup.register('microVM', () => holdings.microvm.kill());
}

/** Their sandboxes are in no journal, so they are empty; else somebody has to look. */
async function removeStrayCgroups(deps: SandboxDeps, known: ReadonlySet<string>): Promise<void> {
  const strays = await deps.cgroups.strays(known).catch((err: unknown) => {
    deps.log.error({ err }, 'cgroups that an earlier agent left cannot be looked for');
    return [];
  });
  for (const id of strays) {
    try {
      await removeCgroup(deps, id);
      deps.log.warn({ sandboxId: id }, 'a cgroup that an earlier agent left was taken away');
    } catch (err) {
      deps.log.error({ sandboxId: id, err }, 'a cgroup that an earlier agent left remains');
    }
  }
}

/**
 * The agent may have been killed between the journal and the deed, on either side of it. One that stands still though
 * nobody has asked it to was to be copied or to hibernate, and goes on.
 */
async function actualState(
  deps: SandboxDeps,
  { id, state }: JournalRecord,
  { microvm }: Holdings,
): Promise<'running' | 'paused'> {
  const { adoptMs } = deps.config.timeouts;
  const ask = <T>(what: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> =>
    withDeadline(what, adoptMs, undefined, work);
  try {
    const actual = await ask('Asking the VMM', (signal) => microvm.status(signal));
    if (actual === 'running' || state === 'paused') return actual;
    await ask('Resuming the microVM', (signal) => microvm.resume(signal));
    return 'running';
  } catch (err) {
    deps.log.warn({ sandboxId: id, err }, 'an adopted VMM does not say whether it runs');
    return state === 'paused' ? 'paused' : 'running';
  }
}

/** The last change to them may have been written down and not yet made. */
async function restoreRules(
  deps: SandboxDeps,
  { id, slotIndex, egress, rateLimits }: JournalRecord,
): Promise<void> {
  const { adoptMs } = deps.config.timeouts;
  await withDeadline('Setting the rules', adoptMs, undefined, (signal) =>
    deps.network.setEgress(slotIndex, slotEgress(egress, rateLimits), signal),
  ).catch((err: unknown) => deps.log.error({ sandboxId: id, err }, 'a sandbox still has its earlier rules'));
}

/** Its environment and clock may be stale; nobody waits for the answer. */
function greet(deps: SandboxDeps, { id, envs }: JournalRecord, { guest }: Holdings): void {
  const { adoptMs } = deps.config.timeouts;
  withDeadline('Greeting the guest', adoptMs, undefined, (signal) =>
    initGuest(guest, { envs }, signal),
  ).catch((err: unknown) =>
    deps.log.warn({ sandboxId: id, err }, 'the guest of an adopted sandbox does not answer'),
  );
}

async function endCorrupt(deps: SandboxDeps, { id, uid, problem }: CorruptJournal): Promise<void> {
  deps.log.error({ sandboxId: id, problem }, 'a journal is corrupt; what is known of its sandbox is removed');
  for (const problem of (await killAll(deps, [{ id, uid, known: [] }])).values())
    deps.log.error({ sandboxId: id, problem }, 'processes of a sandbox with a corrupt journal remain');
}

async function removeCorrupt(deps: SandboxDeps, id: string): Promise<void> {
  try {
    await deps.journal.setAside(id);
    await deps.journal.remove(id);
  } catch (err) {
    deps.log.error({ sandboxId: id, err }, 'files of a sandbox with a corrupt journal remain');
  }
}
