/**
 * Directories on the way to a path.
 *
 * Whose rights count: as in E2B, envd works as root and gives whatever it creates to the request's
 * user. Callers hold the sandbox's token and may run anything as root anyway, and clients rely on
 * writing to /etc or to another's home; acting with the user's own rights would break them and guard
 * nothing. What users plant inside the machine (links, FIFOs) can thus only mislead their own machine.
 */
import { chown, mkdir, stat } from 'node:fs/promises';
import { constants } from 'node:os';
import { dirname } from 'node:path';
import { systemError } from '../sys/errno.ts';
import { isMissing } from './fs-errors.ts';

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

const DIRECTORY_MODE = 0o755;

/** Creates what is missing; what exists keeps its owner. ENOTDIR where something else is in the way. */
export async function ensureDirs(path: string, owner: Owner): Promise<void> {
  const missing: string[] = [];
  let existing = path;
  while (!(await isDirectory(existing))) {
    missing.unshift(existing);
    existing = dirname(existing);
  }
  for (const directory of missing) await makeDirectory(directory, owner);
}

async function makeDirectory(path: string, owner: Owner): Promise<void> {
  try {
    await mkdir(path, DIRECTORY_MODE);
  } catch (error) {
    // Somebody was quicker, or a link that leads nowhere has the name.
    if (await isDirectory(path)) return;
    throw error;
  }
  await chown(path, owner.uid, owner.gid);
}

/** False where nothing is there yet; throws where something else is. */
async function isDirectory(path: string): Promise<boolean> {
  try {
    if ((await stat(path)).isDirectory()) return true;
  } catch (error) {
    // ENOTDIR: the file in the way is found when its own turn comes.
    if (isMissing(error)) return false;
    throw error;
  }
  throw systemError(constants.errno.ENOTDIR, 'mkdir', path);
}
