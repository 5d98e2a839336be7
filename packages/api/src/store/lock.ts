/**
 * One process for each embedded store, by the kernel's file lock: two would write over each other's pages. Node has
 * no call for it, so flock(1) takes the lock and becomes a `cat` that ends when this process does, however it ends.
 */
import { spawn } from 'node:child_process';
import { hasErrno, missingProgram, plainEnvironment } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

/** One that was just killed lets go of it within milliseconds, unless its machine stands still meanwhile. */
const WAIT_S = 3;
const CONFLICT_EXIT_CODE = 75;

export async function lockStore(lockFile: string): Promise<() => Promise<void>> {
  const options = [
    '--exclusive',
    '--wait',
    String(WAIT_S),
    '--conflict-exit-code',
    String(CONFLICT_EXIT_CODE),
  ];
  const holder = spawn('flock', [...options, '--no-fork', lockFile, 'cat'], {
    detached: true,
    env: plainEnvironment(),
    shell: false,
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  // It may be gone before it reads; its end tells.
  holder.stdin.on('error', () => {});
  const ended = new Promise<number | null | Error>((resolve) => {
    holder.once('error', resolve);
    holder.once('exit', resolve);
  });
  const held = new Promise<'held'>((resolve) => holder.stdout.once('data', () => resolve('held')));
  holder.stdin.write('held\n');
  const outcome = await Promise.race([held, ended]);
  if (outcome === 'held') {
    return async () => {
      holder.stdin.end();
      await ended;
    };
  }
  if (outcome === CONFLICT_EXIT_CODE) {
    throw new WrennError('store_in_use', 'Another process uses this store already.', {
      hint: 'One API at a time can have a store: end the other one, or give this one its own `store.dataDir`.',
    });
  }
  if (hasErrno(outcome, 'ENOENT')) {
    throw missingProgram('flock', outcome);
  }
  throw new WrennError('store_unavailable', `${lockFile} cannot be locked.`, {
    hint: 'The API needs to write to the directory of its store.',
    cause: outcome,
  });
}
