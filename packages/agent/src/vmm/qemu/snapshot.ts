/**
 * What a microVM is, written down. The memory is read from the process (vmm/memory): QEMU itself could leave out what
 * it maps shared, but not what it maps privately, and would write all of it each time. For the devices and processors
 * there is a command of their own, made for Xen, where memory is somebody else's as well.
 */
import { open, rm, stat, writeFile } from 'node:fs/promises';
import { freeBytes } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import type { MicrovmHandle, SnapshotFiles, SnapshotOptions } from '../driver.ts';
import { copyMemory } from '../memory/copy.ts';
import { writeDelta } from '../memory/delta.ts';
import { type MemoryPlace, PAGE_BYTES } from '../memory/process.ts';
import { letThrough, takeBackRunDir } from '../run-dir.ts';
import { filesIn } from './arguments.ts';
import type { QmpClient } from './qmp.ts';

const COMMAND_TIMEOUT_MS = 15_000;
const MIB = 1024 * 1024;
/** Some 25 KiB with one processor. */
const STATE_MAX_BYTES = 16 * MIB;
const STATE_ROOM_BYTES = MIB;
/** QEMU looks for a description of the stream behind its end, and says so when there is none: an empty one. */
const NO_DESCRIPTION = Buffer.from([0x06, 0, 0, 0, 2, ...Buffer.from('{}')]);

const ADDRESS = /^Host virtual address for 0x0 \([^)]{1,64}\) is 0x([0-9a-f]{1,12})\b/;

export async function writeSnapshot(
  qmp: QmpClient,
  handle: MicrovmHandle,
  files: SnapshotFiles,
  { memoryMib, parentMemoryPath, memory, signal }: SnapshotOptions,
): Promise<void> {
  const limits = { signal, timeoutMs: COMMAND_TIMEOUT_MS };
  const state = await readState(qmp, handle, limits);
  const address = await memoryAddress(qmp, limits);
  await writeFile(files.statePath, Buffer.concat([state, NO_DESCRIPTION]), { mode: 0o600, flag: 'wx' });
  const source = placeOf(handle, address, memoryMib);
  if (memory === 'delta') {
    if (parentMemoryPath === undefined) throw new WrennError('internal', 'A delta needs a parent.');
    await writeDelta(source, files.memoryPath, { basePath: parentMemoryPath, signal });
  } else {
    await copyMemory(source, files.memoryPath, { parentPath: parentMemoryPath, signal });
  }
}

export interface Limits {
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
}

/**
 * QEMU writes it to a file that is made for it. The run directory is the agent's while the guest runs, so QEMU may
 * pass through it for that moment.
 */
async function readState(qmp: QmpClient, { runDir, pid }: MicrovmHandle, limits: Limits): Promise<Buffer> {
  const { state: path } = filesIn(runDir);
  const { uid, gid } = await stat(`/proc/${pid}`);
  await rm(path, { force: true });
  const file = await open(path, 'wx+', 0o600);
  try {
    await file.chown(uid, gid);
    await letThrough(runDir, gid);
    await qmp
      .execute('xen-save-devices-state', { filename: path, live: false }, limits)
      .catch(async (cause: unknown) => {
        // QEMU itself speaks of an I/O error, whatever it was.
        if ((await freeBytes(runDir)) >= STATE_ROOM_BYTES) throw cause;
        throw new WrennError('disk_full', 'The disk of the host is full: QEMU could not write its state.', {
          hint: 'Destroy sandboxes or snapshots, or make room on the host.',
          cause,
        });
      });
    const { size } = await file.stat();
    if (size === 0 || size > STATE_MAX_BYTES) throw unexpected(`wrote a state of ${size} bytes`);
    const state = Buffer.alloc(size);
    const { bytesRead } = await file.read(state, 0, size, 0);
    if (bytesRead !== size) throw unexpected('cut its state off');
    return state;
  } finally {
    await file.close();
    await takeBackRunDir(runDir);
    await rm(path, { force: true });
  }
}

/** All of it in one place. */
export function placeOf({ pid, startTime }: MicrovmHandle, address: number, memoryMib: number): MemoryPlace {
  const sizeBytes = memoryMib * MIB;
  return { pid, startTime, sizeBytes, parts: [{ address, sizeBytes }] };
}

/** Where the guest's memory begins in QEMU's. */
export async function memoryAddress(qmp: QmpClient, limits: Limits): Promise<number> {
  const answer = await qmp.execute('human-monitor-command', { 'command-line': 'gpa2hva 0' }, limits);
  const found = ADDRESS.exec(typeof answer === 'string' ? answer : '')?.[1];
  if (found === undefined) throw unexpected('does not tell where the memory is');
  const address = Number.parseInt(found, 16);
  if (address % PAGE_BYTES !== 0) throw unexpected('has its memory at no page');
  return address;
}

function unexpected(what: string): WrennError {
  return new WrennError('vmm_api_error', `No snapshot could be taken: QEMU ${what}.`);
}
