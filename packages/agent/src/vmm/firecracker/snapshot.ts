/**
 * What a microVM is, written down by Firecracker and taken over by the agent.
 *
 * Firecracker writes both files itself, by path: they are made for it where it can reach them, and copied, so that
 * nothing is left in its hands. Whole memory is its `Full`; the copy leaves out what is zero.
 *
 * A delta is made of its `Diff`, which has what was written to since the last snapshot of any kind, whether or not
 * anybody kept that. So the agent reads what the process has made its own since it was restored, puts that into the
 * file, and lets Firecracker write over it: what has changed since it was read is in the `Diff`, and what has not is
 * there already. Reading alone would not do, as packets are still received while the guest stands still: only what is
 * written in the same breath as the state belongs to it.
 */
import { constants } from 'node:fs';
import { chmod, chown, open, readlink, rm, stat, truncate } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { copySparse, freeBytes } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import type { MicrovmHandle, RestoreSpec, SnapshotFiles, SnapshotOptions } from '../driver.ts';
import { copyMemory } from '../memory/copy.ts';
import { writeDeltaOfFile } from '../memory/delta.ts';
import { createPageSet } from '../memory/page-set.ts';
import { PAGE_BYTES } from '../memory/process.ts';
import { letThrough, takeBackRunDir } from '../run-dir.ts';
import type { FirecrackerApi } from './api.ts';
import type { RateLimiter, SnapshotCreation } from './api-types.ts';
import type { Machine } from './machine.ts';
import { findMemory } from './memory-place.ts';

const MIB = 1024 * 1024;
/** Some 20 KiB with one processor. */
const STATE_MAX_BYTES = 16 * MIB;
const STATE_NAME = 'snapshot.state';
const MEMORY_NAME = 'snapshot.memory';
/** Firecracker cannot be told to stop writing, and answers nothing meanwhile. */
const SETTLE_TIMEOUT_MS = 60_000;
const SETTLE_POLL_MS = 250;
/** The API's way to take a limit away that the snapshot has. */
const NO_LIMIT: RateLimiter = {
  bandwidth: { size: 0, refill_time: 0 },
  ops: { size: 0, refill_time: 0 },
};

export async function writeSnapshot(
  api: FirecrackerApi,
  { runDir, pid, startTime }: MicrovmHandle,
  files: SnapshotFiles,
  { memoryMib, parentMemoryPath, memory, signal }: SnapshotOptions,
): Promise<void> {
  const sizeBytes = memoryMib * MIB;
  const place = await findPlace(runDir);
  const written = { statePath: join(place.host, STATE_NAME), memoryPath: join(place.host, MEMORY_NAME) };
  const { uid, gid } = await stat(`/proc/${pid}`);
  try {
    for (const path of [written.statePath, written.memoryPath]) await rm(path, { force: true });
    await makeFile(written.statePath);
    const changed = createPageSet(sizeBytes / PAGE_BYTES);
    if (memory === 'whole') await makeFile(written.memoryPath);
    else {
      const source = await findMemory({ pid, startTime }, sizeBytes);
      await copyMemory(source, written.memoryPath, { parentPath: undefined, changed, signal });
    }
    for (const path of [written.statePath, written.memoryPath]) await chown(path, uid, gid);
    await letThrough(place.host, gid);
    await create(api, memory === 'whole' ? 'Full' : 'Diff', place, memoryMib, signal);
    await checkSize(written.statePath, (bytes) => bytes > 0 && bytes <= STATE_MAX_BYTES);
    await checkSize(written.memoryPath, (bytes) => bytes === sizeBytes);
    await takeOver(written.statePath, files.statePath, signal);
    if (memory === 'whole') await takeOver(written.memoryPath, files.memoryPath, signal);
    else {
      if (parentMemoryPath === undefined) throw new WrennError('internal', 'A delta needs a parent.');
      const differing = { path: written.memoryPath, sizeBytes, changed };
      await writeDeltaOfFile(differing, files.memoryPath, { basePath: parentMemoryPath, signal });
    }
  } finally {
    if (!place.isJail) await takeBackRunDir(place.host);
    await rm(written.statePath, { force: true });
    await rm(written.memoryPath, { force: true });
  }
}

interface Place {
  readonly host: string;
  /** The same directory as Firecracker calls it. */
  readonly inside: string;
  readonly isJail: boolean;
}

/** The chroot where there is one, which is where the link to the socket leads; the run directory else. */
async function findPlace(runDir: string): Promise<Place> {
  const link = await readlink(join(runDir, 'api.sock')).catch(() => undefined);
  if (link === undefined) return { host: runDir, inside: runDir, isJail: false };
  return { host: dirname(join(runDir, link)), inside: '/', isJail: true };
}

async function create(
  api: FirecrackerApi,
  snapshotType: SnapshotCreation['snapshot_type'],
  { host, inside }: Place,
  memoryMib: number,
  signal: AbortSignal,
): Promise<void> {
  const paths = { snapshot_path: join(inside, STATE_NAME), mem_file_path: join(inside, MEMORY_NAME) };
  try {
    await api.createSnapshot({ snapshot_type: snapshotType, ...paths }, signal);
  } catch (cause) {
    await untilItAnswers(api);
    if (signal.aborted || (await freeBytes(host)) >= memoryMib * MIB) throw cause;
    throw new WrennError(
      'disk_full',
      'The disk of the host is full: Firecracker could not write its memory.',
      {
        hint: 'Destroy sandboxes or snapshots, or make room on the host.',
        cause,
      },
    );
  }
}

/** Whoever continues the guest after a failure must find it listening. */
async function untilItAnswers(api: FirecrackerApi): Promise<void> {
  const deadline = AbortSignal.timeout(SETTLE_TIMEOUT_MS);
  while (!deadline.aborted) {
    const answered = await api.describeInstance(deadline).then(
      () => true,
      (error: unknown) => WrennError.from(error).code !== 'deadline_exceeded',
    );
    if (answered) return;
    await sleep(SETTLE_POLL_MS);
  }
}

async function makeFile(path: string): Promise<void> {
  await (await open(path, 'wx', 0o600)).close();
}

async function checkSize(path: string, isRight: (bytes: number) => boolean): Promise<void> {
  const { size } = await stat(path);
  if (isRight(size)) return;
  throw new WrennError('vmm_api_error', `No snapshot could be taken: Firecracker wrote ${size} bytes.`);
}

async function takeOver(from: string, to: string, signal: AbortSignal): Promise<void> {
  const { size } = await stat(from);
  await makeFile(to);
  await copySparse(from, to, { signal });
  // It was Firecracker's until now: no more of it than was looked at.
  await truncate(to, size);
}

/** Makes the files readable for the VMM that is to be restored: its own, or those of any. */
export async function lendSnapshot({ snapshot, sharedMemory, uid, gid }: RestoreSpec): Promise<void> {
  for (const path of [snapshot.statePath, snapshot.memoryPath]) {
    // Nobody but root can go where they are; a VMM finds those that are bound for it.
    if (sharedMemory) await chmod(path, 0o644);
    else await chownFile(path, uid, gid);
  }
}

async function chownFile(path: string, uid: number, gid: number): Promise<void> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    await file.chown(uid, gid);
  } finally {
    await file.close();
  }
}

/** Loads it, with the names and limits of now. The guest stands still. */
export async function loadSnapshot(
  api: FirecrackerApi,
  { networkInterface, drives }: Pick<Machine, 'networkInterface' | 'drives'>,
  { statePath, memoryPath }: SnapshotFiles,
  signal: AbortSignal,
): Promise<void> {
  const { iface_id, host_dev_name } = networkInterface;
  await api.loadSnapshot(
    {
      snapshot_path: statePath,
      mem_backend: { backend_type: 'File', backend_path: memoryPath },
      network_overrides: [{ iface_id, host_dev_name }],
      // Costs a fault at the first write to what was read before; the first write to a page of the file faults anyway.
      track_dirty_pages: true,
      resume_vm: false,
    },
    signal,
  );
  for (const { drive_id, rate_limiter } of drives) {
    await api.patchDrive({ drive_id, rate_limiter: { ...NO_LIMIT, ...rate_limiter } }, signal);
  }
}
