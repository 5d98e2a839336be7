/**
 * SSH host keys of a clone's own. The ones it woke up with are also its parent's, so they go at once; new ones are made
 * behind the answer, because that takes an emulated CPU seconds. Until then sshd turns connections away.
 */
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isMissing } from '../filesystem/fs-errors.ts';
import { logError } from '../log.ts';
import type { Credentials } from '../sys/credentials.ts';
import { startHelper } from '../sys/helper.ts';
import { readSmallFile } from './machine-files.ts';

export interface HostKeys {
  /** Returns with the old keys gone and, where there were any, the making of new ones begun. */
  renew(): void;
}

const DIRECTORY = '/etc/ssh';
/** The private ones, the public ones, and what ssh-keygen has not finished. */
const KEY = /^ssh_host_[a-z0-9]+_key/;
const SSHD_PID = '/run/sshd.pid';
const MAKING_MAX_MS = 120_000;

export function createHostKeys(credentials: Credentials): HostKeys {
  let making: Bun.Subprocess | undefined;

  async function make(): Promise<void> {
    const previous = making;
    if (previous !== undefined) {
      // Begun in the parent, with the parent's randomness: nothing of it may be kept.
      previous.kill('SIGKILL');
      await previous.exited;
      removeKeys();
    }
    const program = Bun.which('ssh-keygen');
    if (program === null) return;
    const own = startHelper(credentials, [program, '-q', '-A'], MAKING_MAX_MS);
    making = own;
    const status = await own.exited;
    if (making !== own) return;
    making = undefined;
    if (status === 0) reloadSshd();
    else logError('host keys were not made', `ssh-keygen ended with ${own.signalCode ?? status}`);
  }

  return {
    renew: () => {
      if (!removeKeys() && making === undefined) return;
      make().catch((error) => logError('host keys were not made', error));
    },
  };
}

/** Whether there were any. */
function removeKeys(): boolean {
  const names = keyNames();
  for (const name of names) rmSync(join(DIRECTORY, name), { force: true });
  return names.length > 0;
}

function keyNames(): string[] {
  try {
    return readdirSync(DIRECTORY).filter((name) => KEY.test(name));
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

/** One that runs keeps its keys in memory until it is told; connections that are open go on. */
function reloadSshd(): void {
  try {
    const pid = Number(readSmallFile(SSHD_PID));
    if (!Number.isSafeInteger(pid) || pid <= 1) return;
    if (readSmallFile(`/proc/${pid}/comm`) === 'sshd\n') process.kill(pid, 'SIGHUP');
  } catch (error) {
    logError('sshd was not told of its new keys', error);
  }
}
