/** Private layers: sparse copies of empty file systems that are made once for each size. */
import { chmod, chown, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { copySparse, freeBytes, isDiskFull, makeExt4, writeSparse } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted } from '../signals/signals.ts';
import { createSmallFiles } from './small-files.ts';

const MIB = 1024 * 1024;
/** Part of a master's name: another one whenever `makeExt4` changes what it makes. */
const FORMAT = 'ext4-2';
const LABEL = 'wrenn-layer';

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

type Copy = (from: string, to: string, owner: Owner, signal: AbortSignal) => Promise<void>;

export interface Layers {
  create(path: string, sizeMib: number, owner: Owner, signal: AbortSignal): Promise<void>;
  /**
   * Of another layer, as it is. For an owner it is a snapshot's, which does not change any more; without one it is a
   * sandbox's, and the copy is root's.
   */
  copy(from: string, to: string, owner: Owner | undefined, signal: AbortSignal): Promise<void>;
}

export function createLayers(layersDir: string, reserveMib: number): Layers {
  const beingMade = new Map<number, Promise<string>>();
  const smallFiles = createSmallFiles();

  const makeMaster = async (sizeMib: number): Promise<string> => {
    const master = join(layersDir, `${FORMAT}-${sizeMib}mib.img`);
    if (await isWhole(master, sizeMib)) return master;
    await mkdir(layersDir, { recursive: true, mode: 0o700 });
    const beside = `${master}.new`;
    await rm(beside, { force: true });
    await makeExt4(beside, sizeMib, { label: LABEL });
    const file = await open(beside, 'r');
    try {
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, master);
    return master;
  };

  /** Made once however many ask for it; not cancelled with the first of them. */
  const masterFor = (sizeMib: number): Promise<string> => {
    const found = beingMade.get(sizeMib);
    if (found !== undefined) return found;
    const making = makeMaster(sizeMib).finally(() => beingMade.delete(sizeMib));
    beingMade.set(sizeMib, making);
    return making;
  };

  /** The space is what the copy could grow to, however little of it is in use. */
  const makeWithin = async (to: string, sizeMib: number, make: () => Promise<void>): Promise<void> => {
    const free = await freeBytes(dirname(to));
    if (free < (sizeMib + reserveMib) * MIB) throw diskFull(sizeMib, reserveMib, free);
    try {
      await make();
    } catch (error) {
      await rm(to, { force: true });
      if (isDiskFull(error)) throw diskFull(sizeMib, reserveMib, free, error);
      throw error;
    }
  };

  const copyByProgram: Copy = async (from, to, owner, signal) => {
    await copySparse(from, to, { signal });
    await chmod(to, 0o600);
    await chown(to, owner.uid, owner.gid);
  };

  const copyUnchanging: Copy = async (from, to, owner, signal) => {
    throwIfAborted(signal);
    const content = await smallFiles.content(from, signal);
    if (content === undefined) await copyByProgram(from, to, owner, signal);
    else await writeSparse(to, content, owner);
  };

  return {
    create: async (path, sizeMib, owner, signal) => {
      const master = await masterFor(sizeMib);
      await makeWithin(path, sizeMib, () => copyUnchanging(master, path, owner, signal));
    },
    copy: async (from, to, owner, signal) => {
      const sizeMib = Math.ceil((await stat(from)).size / MIB);
      await makeWithin(to, sizeMib, () =>
        owner === undefined
          ? copyByProgram(from, to, { uid: 0, gid: 0 }, signal)
          : copyUnchanging(from, to, owner, signal),
      );
    },
  };
}

async function isWhole(master: string, sizeMib: number): Promise<boolean> {
  try {
    return (await stat(master)).size === sizeMib * MIB;
  } catch {
    return false;
  }
}

function diskFull(sizeMib: number, reserveMib: number, free: number, cause?: unknown): WrennError {
  const freeMib = Math.floor(free / MIB);
  return new WrennError(
    'disk_full',
    `A disk of ${sizeMib} MiB does not fit: ${freeMib} MiB are free, of which ${reserveMib} are kept in reserve.`,
    { hint: 'Destroy sandboxes, ask for a smaller disk, or make room on the host.', cause },
  );
}
