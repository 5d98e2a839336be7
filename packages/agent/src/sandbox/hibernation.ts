/**
 * A sandbox that stands still, written to its own directory or to a snapshot's. Nothing here changes its state: that
 * is sandbox.ts, which also makes it go on when something fails here.
 */
import { isDiskFull } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted, withDeadline } from '../signals/signals.ts';
import { soon } from '../signals/soon.ts';
import type { Snapshot, SnapshotDraft, SnapshotManifest } from '../storage/snapshots.ts';
import type { Microvm, SnapshotFiles, SnapshotOptions } from '../vmm/driver.ts';
import type { SandboxDeps } from './deps.ts';
import type { Hibernation, JournalRecord } from './journal-record.ts';
import type { Laps } from './laps.ts';
import { type BaseMemory, baseMemoryOf, hibernationsOf } from './memory.ts';

/**
 * A guest that has done next to nothing since it was created takes 5 MiB. How much more another one takes is known when it
 * is written: mostly a small part of its memory, so that to ask for room for all of that would refuse what succeeds.
 */
const ROOM_BYTES = 8 * 1024 * 1024;
/** By when the end of a VMM is noticed (Microvm.exited). */
const EXIT_NOTICE_MS = 1_000;

/** Throws `disk_full` where a guest would stand still for nothing. */
export async function assertRoom(deps: SandboxDeps, id: string): Promise<void> {
  if ((await deps.availableDiskBytes(deps.journal.files(id).dir)) < ROOM_BYTES) throw full();
}

/**
 * Writes the next hibernation of a paused sandbox, whole and on the disk, beside the one that it may still be running
 * from. It counts once the journal says so, with what is returned. On failure or abort nothing of it is left.
 */
export async function writeHibernation(
  deps: SandboxDeps,
  record: JournalRecord,
  microvm: Microvm,
  timed: Laps,
  signal: AbortSignal,
): Promise<Hibernation> {
  const { id } = record;
  const { journal } = deps;
  const number = record.hibernations + 1;
  // Nobody writes to it any more.
  const layer = timed('syncLayer', () => journal.syncLayer(id));
  // Waited for below. Until then its failure must not count as one that nobody hears of, which would end the agent.
  layer.catch(() => {});
  try {
    const { base, memory } = planMemory(deps, record, microvm);
    const files = await journal.makeHibernation(id, number);
    await timed('write', () => writeMemory(deps, record, microvm, files, memory, signal));
    const hashes = await timed('seal', () => journal.sealHibernation(id, number, signal));
    await layer;
    throwIfAborted(signal);
    if (base === undefined || memory === 'whole') return { base: number, baseSha256: null, ...hashes };
    return { base: base.hibernation, baseSha256: base.sha256 ?? null, ...hashes };
  } catch (error) {
    await layer.catch(() => {});
    await journal.removeHibernations(id, hibernationsOf(record));
    throw error;
  }
}

/** What differs from what its process has mapped; all of it where there is nothing, or the VMM can do no other. */
function planMemory(
  deps: SandboxDeps,
  record: JournalRecord,
  microvm: Microvm,
): { readonly base: BaseMemory | undefined; readonly memory: SnapshotOptions['memory'] } {
  const base = baseMemoryOf(deps, record);
  const { features } = deps.driverNamed(microvm.handle.driver);
  return { base, memory: base !== undefined && features.delta ? 'delta' : 'whole' };
}

/** Memory, state and disk of a paused sandbox, into a draft. What is committed later is committed without it. */
export async function fillDraft(
  deps: SandboxDeps,
  record: JournalRecord,
  microvm: Microvm,
  draft: SnapshotDraft,
  signal: AbortSignal,
): Promise<void> {
  const { layer } = deps.journal.files(record.id);
  try {
    await writeMemory(deps, record, microvm, draft, 'whole', signal);
    await deps.storage.copyLayer(layer, draft.layerPath, undefined, signal);
  } catch (error) {
    throw toldIfFull(error);
  }
}

/** What a sandbox runs in, and its files can be restored by. */
export function vmmOf(deps: SandboxDeps, { vmm, handle }: JournalRecord): NonNullable<JournalRecord['vmm']> {
  return vmm ?? { driver: handle?.driver ?? deps.driver.name, version: deps.driverVersion };
}

/**
 * Throws `snapshot_incompatible` where this agent could not restore what it would write of the sandbox, as its VMM was
 * started before another version was installed: better that it goes on.
 */
export function assertOwnVmm(deps: SandboxDeps, record: JournalRecord): void {
  const { driver, version } = vmmOf(deps, record);
  const [its, own] = [`${driver} ${version}`, `${deps.driver.name} ${deps.driverVersion}`];
  if (its === own) return;
  throw new WrennError(
    'snapshot_incompatible',
    `Sandbox ${record.id} runs in ${its}, and this agent has ${own}, which could not restore it.`,
    { hint: 'It goes on as it is. Install that version again, or start anew from the template.' },
  );
}

export function describeSnapshot(
  deps: SandboxDeps,
  record: JournalRecord,
  kind: SnapshotManifest['kind'],
): Parameters<SnapshotDraft['commit']>[0] {
  const { template, buildId, images, vcpus, memoryMib, diskMib, envs } = record;
  if (images === null) throw new WrennError('internal', `Sandbox ${record.id} has no images.`);
  return {
    kind,
    sandboxId: kind === 'warm' ? null : record.id,
    accessToken: record.accessToken,
    createdAtMs: Date.now(),
    template: { name: template, buildId, ...images },
    vmm: { ...vmmOf(deps, record), accelerator: deps.driver.features.accelerator },
    vcpus,
    memoryMib,
    diskMib,
    envs,
  };
}

/** Throws `snapshot_incompatible` unless this agent's VMM can read what another, or an earlier one, has written. */
export function assertRestorable(
  deps: SandboxDeps,
  what: string,
  vmm: Snapshot['vmm'] | JournalRecord['vmm'],
): void {
  const { name, features } = deps.driver;
  const own = `${name} ${deps.driverVersion}`;
  const theirs = vmm === null ? 'nothing' : `${vmm.driver} ${vmm.version}`;
  const accelerator = vmm !== null && 'accelerator' in vmm ? vmm.accelerator : features.accelerator;
  if (own === theirs && accelerator === features.accelerator) return;
  throw new WrennError(
    'snapshot_incompatible',
    `${what} was written by ${theirs} (${accelerator}), and this agent runs ${own} (${features.accelerator}).`,
    { hint: 'Install that version again, or start anew from the template.' },
  );
}

async function writeMemory(
  deps: SandboxDeps,
  record: JournalRecord,
  microvm: Microvm,
  { statePath, memoryPath }: SnapshotFiles,
  memory: SnapshotOptions['memory'],
  signal: AbortSignal,
): Promise<void> {
  const parentMemoryPath = baseMemoryOf(deps, record)?.path;
  const options = { memoryMib: record.memoryMib, parentMemoryPath, memory };
  try {
    await withDeadline('Writing the memory', deps.config.timeouts.snapshotMs, signal, (limited) =>
      microvm.snapshot({ statePath, memoryPath }, { ...options, signal: limited }),
    );
  } catch (error) {
    if (error instanceof WrennError) throw error;
    // What is read of a process that ends meanwhile fails in many ways, and one cause.
    const exit = await soon(microvm.exited, EXIT_NOTICE_MS);
    if (exit === undefined) throw error;
    throw new WrennError('vmm_died', exit.message, { cause: error });
  }
}

/** The error, or `disk_full` if that is what it comes to. */
export function toldIfFull(error: unknown): unknown {
  return isDiskFull(error) ? full(error) : error;
}

function full(cause?: unknown): WrennError {
  return new WrennError('disk_full', 'The disk of the host is full: the sandbox could not be written.', {
    hint: 'Destroy sandboxes or snapshots, or make room on the host; this sandbox goes on.',
    cause,
  });
}
