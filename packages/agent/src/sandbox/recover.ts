/**
 * What an agent before this one has left. The journal says what there should be, the processes say what there
 * is: what runs is adopted, what is sure to be lost is taken away, and what may be well is kept as it is.
 */
import { throwIfAborted, withDeadline } from '../signals/signals.ts';
import { mapAtOnce } from './at-once.ts';
import { createCleanupStack } from './cleanup-stack.ts';
import { createStopwatch, endProcesses, initGuest, killAll, removeCgroup, suspectOf } from './create.ts';
import type { SandboxDeps } from './deps.ts';
import { slotEgress } from './egress.ts';
import { type Found, findFates, mayHaveSlot } from './fates.ts';
import type { CorruptJournal } from './journal.ts';
import type { JournalRecord } from './journal-record.ts';
import { hibernationsOf } from './memory.ts';
import type { Roster } from './roster.ts';
import { createSandbox, type Holdings, type SandboxParts } from './sandbox.ts';

/** The same with what the host may still have of it. */
interface Remnant extends Found {
  /** Its processes may run, in its slot. */
  readonly mayRun: boolean;
  readonly hasSlot: boolean;
}

type Entry = Pick<Roster, 'events' | 'adopt'>;

const AT_ONCE = 16;

/** Puts into the roster all that there is; those that were lost end there, and stay for their reason. */
export async function recover(deps: SandboxDeps, roster: Entry, signal: AbortSignal): Promise<void> {
  const { records, unknownKeys, corrupt } = await deps.journal.readAll();
  const doubtful = withoutClashes(deps, records);
  const found = await findFates(deps, doubtful.records, unknownKeys, signal);
  try {
    // An agent that is told to go while it starts has learnt nothing about its sandboxes.
    throwIfAborted(signal);
    await settle(deps, roster, found, [...corrupt, ...doubtful.clashing], signal);
  } catch (error) {
    for (const { fate } of found) {
      if (fate.kind !== 'adopted') continue;
      fate.holdings.microvm.detach();
      fate.holdings.guest.close();
    }
    throw error;
  }
}

/** Takes away what is neither adopted nor kept, first from the kernel and then from the disk. */
async function settle(
  deps: SandboxDeps,
  roster: Entry,
  found: readonly Found[],
  corrupt: readonly CorruptJournal[],
  signal: AbortSignal,
): Promise<void> {
  // Whatever runs must be gone before its network and files are.
  const left = await endStrays(deps, found, corrupt);
  const remnants = remnantsOf(deps, found, left);

  const slots = remnants.filter(({ hasSlot }) => hasSlot).map(({ record }) => record.slotIndex);
  const removed = await deps.network.start(new Set(slots), signal);
  if (removed.length > 0)
    deps.log.warn({ slots: removed }, 'slots that an earlier agent left were taken away');

  // The network's names are the agent's own, or its start had failed: so are the groups of the same prefix.
  // One that hibernates has none either.
  const grouped = remnants.filter(({ fate, mayRun }) => fate.kind !== 'asleep' || mayRun);
  await removeStrayCgroups(deps, new Set(grouped.map(({ record }) => record.id)));

  // Only now: what is in these directories names what was to be taken away first.
  for (const { id } of corrupt) if (!left.has(id)) await removeCorrupt(deps, id);
  await enter(deps, roster, remnants);
}

async function enter(
  deps: SandboxDeps,
  { events, adopt }: Entry,
  remnants: readonly Remnant[],
): Promise<void> {
  const prepared = await mapAtOnce(AT_ONCE, remnants, async (one) => ({
    one,
    parts: await prepare(deps, one),
  }));
  // All of them, before any can end: whoever hears of an end asks the roster what the others use.
  const recovered = prepared.map(({ one, parts }) => ({
    ...one,
    sandbox: createSandbox({ ...parts, ...events }),
  }));
  for (const { sandbox, fate, mayRun } of recovered) adopt(sandbox, mayRun && fate.kind !== 'asleep');
  await mapAtOnce(AT_ONCE, recovered, async ({ sandbox, fate }) => {
    if (fate.kind !== 'lost') return;
    // Nobody could ask what became of it: told only when there is something to tell.
    if (fate.why === undefined) await sandbox.destroy().catch(() => {});
    else await sandbox.fail(fate.why);
  });
}

/** Of all that is not to run. Tells by id of whom anything is left, and what. */
async function endStrays(
  deps: SandboxDeps,
  found: readonly Found[],
  corrupt: readonly CorruptJournal[],
): Promise<ReadonlyMap<string, string>> {
  for (const { id: sandboxId, problem } of corrupt)
    deps.log.error({ sandboxId, problem }, 'a journal is corrupt; what is known of its sandbox is removed');
  const ended = found.filter(({ fate, record }) => {
    return (fate.kind === 'lost' || fate.kind === 'asleep') && record.bootId === deps.host.bootId;
  });
  const suspects = [
    ...ended.map(({ record }) => suspectOf(record)),
    ...corrupt.map(({ id, uid }) => ({ id, uid, known: [] })),
  ];
  const left = suspects.length === 0 ? new Map<string, string>() : await killAll(deps, suspects);
  for (const [sandboxId, what] of left)
    deps.log.error({ sandboxId, what }, 'not all of a sandbox that is not to run could be ended');
  return left;
}

/** What cannot be ended is kept, with its slot and its files: they must be nobody else's. */
function remnantsOf(
  deps: SandboxDeps,
  found: readonly Found[],
  left: ReadonlyMap<string, string>,
): Remnant[] {
  const slots = new Set<number>();
  return found.map(({ record, fate }) => {
    const what = left.get(record.id);
    const isUntouched = fate.kind === 'adopted' || fate.kind === 'kept';
    const mayRun = (isUntouched && mayHaveSlot(deps, record)) || what !== undefined;
    // One that sleeps may name a slot that is another's by now.
    const hasSlot = mayRun && !slots.has(record.slotIndex);
    if (hasSlot) slots.add(record.slotIndex);
    if (fate.kind !== 'lost' || what === undefined) return { record, fate, mayRun, hasSlot };
    const why = `${fate.why ?? 'It was being taken away.'} It is still there: ${what}.`;
    return { record, fate: { kind: 'stuck', why }, mayRun, hasSlot };
  });
}

/** Two sandboxes cannot have one slot: only the journals of one can be right. */
function withoutClashes(
  deps: SandboxDeps,
  all: readonly JournalRecord[],
): { records: JournalRecord[]; clashing: CorruptJournal[] } {
  const bySlot = new Map<number, JournalRecord>();
  const clashing: CorruptJournal[] = [];
  const holding = all.filter((record) => mayHaveSlot(deps, record));
  for (const record of holding.sort((a, b) => rank(a) - rank(b))) {
    const other = bySlot.get(record.slotIndex);
    if (other === undefined) bySlot.set(record.slotIndex, record);
    else clashing.push({ id: record.id, uid: record.uid, problem: `its slot is that of ${other.id}` });
  }
  return { records: [...bySlot.values(), ...all.filter((record) => !mayHaveSlot(deps, record))], clashing };
}

/** Those that may be adopted come first. */
function rank({ state, purpose }: JournalRecord): number {
  return purpose === 'user' && ['running', 'paused', 'hibernating'].includes(state) ? 0 : 1;
}

/** Brings the host and the journal in line with what was found. */
async function prepare(
  deps: SandboxDeps,
  remnant: Remnant,
): Promise<Omit<SandboxParts, keyof Roster['events']>> {
  const { record, fate } = remnant;
  const { id } = record;
  const { cleanupStepMs } = deps.config.timeouts;
  const [cleanup, machine] = [createCleanupStack(cleanupStepMs), createCleanupStack(cleanupStepMs)];
  const parts = { deps, journalled: true, cleanup, machine, timed: createStopwatch(deps) };
  cleanup.register('files', () => deps.journal.remove(id));
  registerMachine(deps, machine, remnant);
  if (fate.kind === 'kept' || fate.kind === 'stuck') {
    const { kind, why } = fate;
    deps.log.error({ sandboxId: id, why }, 'is kept as it is, and listed as failed');
    return { ...parts, record, kept: { why, mayBeWell: kind === 'kept' } };
  }
  await deps.journal.removeHibernations(id, hibernationsOf(record)).catch((err: unknown) => {
    deps.log.warn({ sandboxId: id, err }, 'an earlier hibernation remains');
  });
  if (fate.kind === 'lost') return { ...parts, record };
  if (fate.kind === 'asleep') {
    const asleep = { ...record, state: 'hibernated' as const, handle: null };
    if (record.state !== 'hibernated') await writeIfPossible(deps, asleep);
    deps.log.info({ sandboxId: id }, 'hibernates');
    return { ...parts, record: asleep };
  }
  const { holdings } = fate;
  await restoreRules(deps, record);
  const actual = await actualState(deps, record, holdings);
  const adopted = { ...record, state: actual };
  if (actual !== record.state) await writeIfPossible(deps, adopted);
  deps.observer.adopted();
  deps.log.info({ sandboxId: id, state: actual }, 'adopted');
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
  { record, fate, mayRun, hasSlot }: Remnant,
): void {
  const { id, slotIndex } = record;
  // A slot that is not in use was taken away by the network's start, and may be another sandbox's by now.
  if (hasSlot) cleanup.register('slot', () => deps.network.release(slotIndex), { onlyAfterTheRest: true });
  cleanup.register('cgroup', () => removeCgroup(deps, id), { onlyAfterTheRest: true });
  if (fate.kind === 'adopted') {
    const { guest, microvm } = fate.holdings;
    cleanup.register('guest connections', async () => guest.close());
    cleanup.register('microVM', () => microvm.kill());
  } else if (mayRun) {
    cleanup.register('microVM', () => endProcesses(deps, record));
  }
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

async function removeCorrupt(deps: SandboxDeps, id: string): Promise<void> {
  try {
    await deps.journal.setAside(id);
    await deps.journal.remove(id);
  } catch (err) {
    deps.log.error({ sandboxId: id, err }, 'files of a sandbox with a corrupt journal remain');
  }
}
