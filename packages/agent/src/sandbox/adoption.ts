/**
 * A sandbox that an agent before this one has left and whose microVM is found again: host, guest and journal are brought
 * in line with it. What could not be adopted then is looked at again now and then.
 */
import { throwIfAborted, withDeadline } from '../signals/signals.ts';
import type { CleanupStack } from './cleanup-stack.ts';
import { initGuest } from './create.ts';
import type { SandboxDeps } from './deps.ts';
import { slotEgress } from './egress.ts';
import { type Fate, fateOf } from './fates.ts';
import type { JournalRecord } from './journal-record.ts';
import { hibernationsOf } from './memory.ts';
import type { Holdings } from './sandbox-parts.ts';

/** As a Fate; `adopted` with what is true of it now. */
export type SecondFate =
  | Exclude<Fate, { readonly kind: 'adopted' }>
  | { readonly kind: 'adopted'; readonly record: JournalRecord; readonly holdings: Holdings };

/** Tells what is true of it now. Rejects when the signal aborts, and not otherwise. */
export async function settleIn(
  deps: SandboxDeps,
  record: JournalRecord,
  holdings: Holdings,
  signal: AbortSignal,
): Promise<JournalRecord> {
  await restoreRules(deps, record, signal);
  const state = await actualState(deps, record, holdings, signal);
  throwIfAborted(signal);
  const adopted = { ...record, state };
  if (state !== record.state) await writeIfPossible(deps, adopted);
  throwIfAborted(signal);
  deps.observer.adopted();
  deps.log.info({ sandboxId: record.id, state }, 'adopted');
  if (state === 'running') greet(deps, adopted, holdings);
  return adopted;
}

/** Of one that is kept. Rejects when the signal aborts, with nothing held. */
export async function adoptAgain(
  deps: SandboxDeps,
  record: JournalRecord,
  machine: CleanupStack,
  signal: AbortSignal,
): Promise<SecondFate> {
  const fate = await fateOf(deps, record, deps.config.timeouts.adoptMs, signal);
  if (fate.kind !== 'adopted') {
    // Whoever is told to stop has learnt nothing about it.
    throwIfAborted(signal);
    return fate;
  }
  const { holdings } = fate;
  try {
    throwIfAborted(signal);
    await removeHibernations(deps, record);
    const adopted = await settleIn(deps, record, holdings, signal);
    registerHoldings(machine, holdings);
    return { kind: 'adopted', record: adopted, holdings };
  } catch (error) {
    letGo(holdings);
    throw error;
  }
}

/** What a creation would have registered. */
export function registerHoldings(machine: CleanupStack, { guest, microvm }: Holdings): void {
  machine.register('guest connections', async () => guest.close());
  machine.register('microVM', () => microvm.kill());
}

/** Without touching the microVM. */
export function letGo({ microvm, guest }: Holdings): void {
  microvm.detach();
  guest.close();
}

/** Of those before the one that its record names, or that failed. */
export async function removeHibernations(
  { journal, log }: SandboxDeps,
  record: JournalRecord,
): Promise<void> {
  await journal.removeHibernations(record.id, hibernationsOf(record)).catch((err: unknown) => {
    log.warn({ sandboxId: record.id, err }, 'an earlier hibernation remains');
  });
}

/**
 * A full disk is no reason not to go on: what the journal says instead means the same to the next agent, and somebody has
 * to be there with whom sandboxes can be destroyed.
 */
export async function writeIfPossible({ journal, log }: SandboxDeps, record: JournalRecord): Promise<void> {
  await journal.write(record).catch((err: unknown) => {
    log.error({ sandboxId: record.id, err }, 'what was found could not be journalled');
  });
}

/**
 * The agent may have been killed between the journal and the deed, on either side of it. One that stands still though
 * nobody has asked it to was to be copied or to hibernate, and goes on.
 */
async function actualState(
  deps: SandboxDeps,
  { id, state }: JournalRecord,
  { microvm }: Holdings,
  signal: AbortSignal,
): Promise<'running' | 'paused'> {
  const { adoptMs } = deps.config.timeouts;
  const ask = <T>(what: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> =>
    withDeadline(what, adoptMs, signal, work);
  try {
    const actual = await ask('Asking the VMM', (limited) => microvm.status(limited));
    if (actual === 'running' || state === 'paused') return actual;
    await ask('Resuming the microVM', (limited) => microvm.resume(limited));
    return 'running';
  } catch (err) {
    throwIfAborted(signal);
    deps.log.warn({ sandboxId: id, err }, 'an adopted VMM does not say whether it runs');
    return state === 'paused' ? 'paused' : 'running';
  }
}

/** The last change to them may have been written down and not yet made. */
async function restoreRules(
  deps: SandboxDeps,
  { id, slotIndex, egress, rateLimits }: JournalRecord,
  signal: AbortSignal,
): Promise<void> {
  const { adoptMs } = deps.config.timeouts;
  await withDeadline('Setting the rules', adoptMs, signal, (limited) =>
    deps.network.setEgress(slotIndex, slotEgress(egress, rateLimits), limited),
  ).catch((err: unknown) => {
    throwIfAborted(signal);
    deps.log.error({ sandboxId: id, err }, 'a sandbox still has its earlier rules');
  });
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
