/**
 * What becomes of each sandbox that an earlier agent has left. It is looked at here, and adopted where it can be; nothing
 * is taken away. Lost is only what is sure to be: what may be well is kept, to be looked at again.
 */
import { WrennError } from '@wrenn/protocol';
import { withDeadline } from '../signals/signals.ts';
import { mapAtOnce } from './at-once.ts';
import type { SandboxDeps } from './deps.ts';
import { endReason } from './end-reason.ts';
import type { JournalRecord } from './journal-record.ts';
import type { Holdings } from './sandbox-parts.ts';

export type Fate =
  | { readonly kind: 'adopted'; readonly holdings: Holdings }
  /** Its files are all that it needs. */
  | { readonly kind: 'asleep' }
  /** To be taken away; `why` is undefined where nobody could ask what became of it. */
  | { readonly kind: 'lost'; readonly why: string | undefined }
  /** May be well. Listed as failed, and not touched unless it is destroyed. */
  | { readonly kind: 'kept'; readonly why: string; readonly hope: 'later' | 'newer agent' }
  /** Lost, but not all of it could be ended: has what it has until that is gone. */
  | { readonly kind: 'stuck'; readonly why: string };

export interface Found {
  readonly record: JournalRecord;
  readonly fate: Fate;
}

/** Each adoption opens files and connections of its own. */
const ADOPTED_AT_ONCE = 16;
/** When the first have taken all the time, the others get as much as one needs that is well. */
const LATE_ADOPTION_MS = 1_000;
/** So many keys are told. */
const NAMED_MAX = 5;

/** Never rejects. When the signal aborts nothing more is adopted, and the rest is kept. */
export async function findFates(
  deps: SandboxDeps,
  records: readonly JournalRecord[],
  unknownKeys: ReadonlyMap<string, readonly string[]>,
  signal: AbortSignal,
): Promise<Found[]> {
  const { adoptMs } = deps.config.timeouts;
  const find = async (record: JournalRecord, timeoutMs: number): Promise<Fate> => {
    const unknown = unknownKeys.get(record.id);
    if (unknown !== undefined && record.purpose !== 'own') return newer(unknown);
    return fateOf(deps, record, timeoutMs, signal);
  };
  const endMs = performance.now() + adoptMs;
  const found = await mapAtOnce(ADOPTED_AT_ONCE, records, async (record) => {
    const leftMs = Math.max(LATE_ADOPTION_MS, Math.ceil(endMs - performance.now()));
    return { record, fate: await find(record, Math.min(adoptMs, leftMs)) };
  });
  // What was too much at once may not be so one by one. What has taken all the time by then stands still.
  const settled: Found[] = [];
  for (const { record, fate } of found) {
    const leftMs = Math.floor(endMs - performance.now());
    const isOver = fate.kind !== 'kept' || leftMs <= 0 || signal.aborted;
    settled.push({ record, fate: isOver ? fate : await find(record, leftMs) });
  }
  return settled;
}

export function sleeps({ state }: JournalRecord): boolean {
  return state === 'hibernated' || state === 'resuming';
}

/**
 * One that hibernates has none, whatever its record says of the last one; one that was being woken loses its own, which
 * another may have been given already when the wake had failed. And none outlives the host's boot.
 */
export function mayHaveSlot({ host }: SandboxDeps, record: JournalRecord): boolean {
  return !sleeps(record) && record.bootId === host.bootId;
}

/** Never rejects; when the signal aborts it is kept. */
export async function fateOf(
  deps: SandboxDeps,
  record: JournalRecord,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Fate> {
  const { state, handle, purpose, bootId, uid, slotIndex } = record;
  // Where it was being woken its guest has not run since: the journal would say so.
  if (sleeps(record)) return { kind: 'asleep' };
  if (purpose === 'own') return lost(undefined);
  if (bootId !== deps.host.bootId) return lost('The host was restarted.');
  if (state === 'destroying') return lost(undefined);
  if (state === 'creating') return lost('The agent ended during the creation.');
  if (uid !== deps.config.uidBase + slotIndex) return lost('The configured uids have changed.');
  if (handle === null) return lost('Its journal names no microVM.');
  try {
    return { kind: 'adopted', holdings: await adopt(deps, record, handle, timeoutMs, signal) };
  } catch (err) {
    deps.log.warn({ sandboxId: record.id, err }, 'a sandbox of an earlier agent could not be adopted');
    return afterFailure(deps, record, err);
  }
}

async function afterFailure(deps: SandboxDeps, { id }: JournalRecord, err: unknown): Promise<Fate> {
  const message = err instanceof Error ? err.message : String(err);
  if (err instanceof WrennError && err.code === 'vmm_died') {
    return lost(`The microVM ended while no agent had it: ${await endReason(deps, id, message)}`);
  }
  // A busy host, no descriptors, a VMM that stands still: none of it says that the guest is not well.
  const hope = 'It is left as it is, and tried again now and then.';
  return { kind: 'kept', why: `It could not be adopted: ${message} ${hope}`, hope: 'later' };
}

async function adopt(
  deps: SandboxDeps,
  record: JournalRecord,
  handle: NonNullable<JournalRecord['handle']>,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Holdings> {
  const microvm = await withDeadline('Adopting the microVM', timeoutMs, signal, (limited) =>
    deps.driverNamed(handle.driver).adopt(handle, limited),
  );
  const slot = deps.network.describe(record.slotIndex);
  return { slot, microvm, guest: deps.connectGuest(slot.address, record.accessToken) };
}

function lost(why: string | undefined): Fate {
  return { kind: 'lost', why };
}

/** To go on with it would be to forget what its own agent knows of it. */
function newer(unknown: readonly string[]): Fate {
  const keys = unknown.slice(0, NAMED_MAX).join(', ');
  const why = `Its journal has what this agent does not know (${keys}): a newer one wrote it.`;
  const told = `${why} It is left as it is, for that agent to go on with.`;
  return { kind: 'kept', why: told, hope: 'newer agent' };
}
