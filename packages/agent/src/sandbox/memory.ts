/**
 * What the memory of a sandbox is made of: the file that its process maps privately, its base, and for one that sleeps
 * what it differs by from that. The base is the memory of the snapshot that it was created from, which is there as long
 * as the sandbox is (copies.ts), or that of its own first hibernation where it booted. So nothing is ever more than one
 * step away from a whole file.
 */
import { WrennError } from '@wrenn/protocol';
import type { MicrovmSpec, RestoreSpec } from '../vmm/driver.ts';
import type { SandboxDeps } from './deps.ts';
import type { JournalRecord } from './journal-record.ts';

export interface BaseMemory {
  readonly path: string;
  /** Undefined where it was not written down. */
  readonly sha256: string | undefined;
  /** Which of its own it is; 0 for its snapshot's, which others map too. */
  readonly hibernation: number;
}

/** What its process has mapped, or will have when it wakes; undefined for one that booted and has never slept. */
export function baseMemoryOf(deps: SandboxDeps, record: JournalRecord): BaseMemory | undefined {
  const { id, hibernations, hibernation, snapshotId } = record;
  // Agents that did not write it down wrote whole memory.
  const base = hibernation === null ? hibernations : hibernation.base;
  if (base === 0) return snapshotId === null ? undefined : snapshotMemory(deps, record, snapshotId);
  const sha256 = base === hibernations ? hibernation?.memorySha256 : hibernation?.baseSha256;
  return {
    path: deps.journal.files(id).hibernation(base).memoryPath,
    sha256: sha256 ?? undefined,
    hibernation: base,
  };
}

/** The hibernations whose files are of use. */
export function hibernationsOf({ hibernations, hibernation }: JournalRecord): number[] {
  return [hibernations, hibernation?.base ?? 0].filter((number) => number > 0);
}

type Restorable = Omit<RestoreSpec, keyof MicrovmSpec>;

/** What one that sleeps wakes up from. Throws `snapshot_corrupt`. */
export function sleepingMemory(deps: SandboxDeps, record: JournalRecord): Restorable {
  const { id, hibernations, hibernation } = record;
  const base = baseMemoryOf(deps, record);
  if (base === undefined) throw new WrennError('internal', `Sandbox ${id} has never hibernated.`);
  const { statePath, memoryPath } = deps.journal.files(id).hibernation(hibernations);
  const isDelta = hibernation !== null && base.hibernation !== hibernations;
  return {
    snapshot: { statePath, memoryPath: base.path },
    memorySha256: base.sha256,
    stateSha256: hibernation?.stateSha256,
    delta: isDelta ? { path: memoryPath, sha256: hibernation.memorySha256 } : undefined,
    sharedMemory: base.hibernation === 0,
    keepsLogs: true,
  };
}

function snapshotMemory(
  { snapshots }: SandboxDeps,
  { id, hibernation }: JournalRecord,
  snapshotId: string,
): BaseMemory {
  const snapshot = snapshots.list().find((each) => each.id === snapshotId);
  const unusable = (why: string): WrennError =>
    new WrennError(
      'snapshot_corrupt',
      `Sandbox ${id} continues the memory of snapshot ${snapshotId}, which ${why}.`,
      { hint: "The agent's log of its start may say more." },
    );
  if (snapshot === undefined) throw unusable('is not there, or cannot be used');
  const sha256 = memoryHashOf(snapshot);
  const expected = hibernation?.baseSha256 ?? undefined;
  if (expected !== undefined && sha256 !== expected) throw unusable('is another by now');
  return { path: snapshot.memoryPath, sha256, hibernation: 0 };
}

/** Undefined for a manifest of an agent that hashed in another way. */
export function memoryHashOf({
  version,
  memorySha256,
}: {
  readonly version: number;
  readonly memorySha256: string;
}): string | undefined {
  return version === 1 ? undefined : memorySha256;
}
