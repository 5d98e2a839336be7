/**
 * What an agent before this one has left. The journal says what there should be, the processes say what there
 * is: what runs is adopted, what is sure to be lost is taken away, and what may be well is kept as it is.
 */
import { throwIfAborted } from '../signals/signals.ts';
import { letGo, registerHoldings, removeHibernations, settleIn, writeIfPossible } from './adoption.ts';
import { mapAtOnce } from './at-once.ts';
import { createCleanupStack } from './cleanup-stack.ts';
import { createStopwatch, endProcesses, killAll, removeCgroup, suspectOf } from './create.ts';
import type { SandboxDeps } from './deps.ts';
import { type Found, findFates, mayHaveSlot } from './fates.ts';
import type { CorruptJournal } from './journal.ts';
import type { JournalRecord } from './journal-record.ts';
import type { Roster } from './roster.ts';
import { createSandbox } from './sandbox.ts';
import type { SandboxParts } from './sandbox-parts.ts';

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
  const doubtful = withoutClashes(deps, records, unknownKeys);
  const found = await findFates(deps, doubtful.records, unknownKeys, signal);
  try {
    // An agent that is told to go while it starts has learnt nothing about its sandboxes.
    throwIfAborted(signal);
    await settle(deps, roster, found, [...corrupt, ...doubtful.clashing], signal);
  } catch (error) {
    for (const { fate } of found) {
      if (fate.kind !== 'adopted') continue;
      letGo(fate.holdings);
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

/**
 * Two sandboxes cannot have one slot: only the journals of one can be right. What a newer agent has written may be well in a
 * way that this one does not know: it is no clash, and comes last, so that no other is without its slot for it.
 */
function withoutClashes(
  deps: SandboxDeps,
  all: readonly JournalRecord[],
  unknownKeys: ReadonlyMap<string, unknown>,
): { records: JournalRecord[]; clashing: CorruptJournal[] } {
  const bySlot = new Map<number, JournalRecord>();
  const clashing: CorruptJournal[] = [];
  const mayClash = (record: JournalRecord): boolean =>
    mayHaveSlot(deps, record) && !(unknownKeys.has(record.id) && record.purpose !== 'own');
  for (const record of all.filter(mayClash).sort((a, b) => rank(a) - rank(b))) {
    const other = bySlot.get(record.slotIndex);
    if (other === undefined) bySlot.set(record.slotIndex, record);
    else clashing.push({ id: record.id, uid: record.uid, problem: `its slot is that of ${other.id}` });
  }
  return { records: [...bySlot.values(), ...all.filter((record) => !mayClash(record))], clashing };
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
    const { why } = fate;
    deps.log.error({ sandboxId: id, why }, 'is kept as it is, and listed as failed');
    return { ...parts, record, kept: { why, hope: fate.kind === 'kept' ? fate.hope : 'none' } };
  }
  await removeHibernations(deps, record);
  if (fate.kind === 'lost') return { ...parts, record };
  if (fate.kind === 'asleep') {
    const asleep = { ...record, state: 'hibernated' as const, handle: null };
    if (record.state !== 'hibernated') await writeIfPossible(deps, asleep);
    deps.log.info({ sandboxId: id }, 'hibernates');
    return { ...parts, record: asleep };
  }
  const { holdings } = fate;
  // It is to be in the list, whatever comes: the network knows that its slot is in use.
  const adopted = await settleIn(deps, record, holdings, new AbortController().signal);
  return { ...parts, record: adopted, holdings };
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
    registerHoldings(cleanup, fate.holdings);
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

async function removeCorrupt(deps: SandboxDeps, id: string): Promise<void> {
  try {
    await deps.journal.setAside(id);
    await deps.journal.remove(id);
  } catch (err) {
    deps.log.error({ sandboxId: id, err }, 'files of a sandbox with a corrupt journal remain');
  }
}
