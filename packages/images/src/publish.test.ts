import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { publish, removeLeftovers, requireSpace, withLock } from './publish.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'wrenn-publish-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

describe('publish', () => {
  it('shows the directory only once it is whole', async () => {
    await publish(directory, async (beside) => {
      await writeFile(join(beside, 'manifest.json'), '{}');
      expect(existsSync(join(directory, 'done'))).toBe(false);
      return 'done';
    });
    expect(readdirSync(directory)).toEqual(['done']);
  });

  it('leaves nothing of a build that fails, and the earlier one as it was', async () => {
    mkdirSync(join(directory, 'done'));
    const failing = publish(directory, async (beside) => {
      await writeFile(join(beside, 'half'), '');
      throw new Error('out of flour');
    });
    await expect(failing).rejects.toThrow('out of flour');
    expect(readdirSync(directory)).toEqual(['done']);
  });
});

describe('removeLeftovers', () => {
  it('removes builds that were ended half way, and nothing else', async () => {
    for (const name of ['.building-1', 'done']) {
      mkdirSync(join(directory, name));
      writeFileSync(join(directory, name, 'file'), '');
    }
    writeFileSync(join(directory, 'current.json'), '{}');
    await removeLeftovers(directory);
    expect(readdirSync(directory).sort()).toEqual(['current.json', 'done']);
    await removeLeftovers(join(directory, 'not-there'));
  });
});

describe('withLock', () => {
  const options = { onWait: () => {} };
  /** Another process that takes the lock, as withLock does, and says so. */
  const HOLD =
    "const holder = require('node:child_process').spawn('flock', ['--no-fork', process.argv[1], 'cat'], " +
    "{ detached: true, stdio: ['pipe', 'inherit', 'inherit'] }); holder.stdin.write('held');";

  it('lets one in at a time, and the next one afterwards', async () => {
    const lock = join(directory, 'lock');
    const order: string[] = [];
    let letGo = (): void => {};
    const until = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    const first = withLock(lock, options, async () => {
      order.push('first in');
      await until;
      order.push('first out');
    });
    await expect.poll(() => order).toEqual(['first in']);
    const waits: number[] = [];
    const second = withLock(lock, { onWait: (pid) => waits.push(pid) }, async () => {
      order.push('second in');
    });
    await expect.poll(() => waits).toEqual([process.pid]);
    letGo();
    await Promise.all([first, second]);
    expect(order).toEqual(['first in', 'first out', 'second in']);
    expect(waits).toEqual([process.pid]);
  });

  it('takes the lock of a holder that is gone', async () => {
    const lock = join(directory, 'lock');
    const holder = spawn(process.execPath, ['-e', HOLD, lock], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(holder.stdout, 'data');
    holder.kill('SIGKILL');
    expect(await withLock(lock, options, async () => 'mine')).toBe('mine');
  });

  it('stops waiting when it is told to', async () => {
    const lock = join(directory, 'lock');
    const release = new AbortController();
    let isHeld = false;
    const holder = withLock(lock, options, async () => {
      isHeld = true;
      await sleep(60_000, undefined, { signal: release.signal }).catch(() => {});
    });
    await expect.poll(() => isHeld).toBe(true);
    const waiting = withLock(lock, { ...options, signal: AbortSignal.timeout(30) }, async () => 'never');
    await expect(waiting).rejects.toMatchObject({ code: 'cancelled' });
    release.abort();
    await holder;
  });
});

describe('requireSpace', () => {
  it('says what is needed and what there is', async () => {
    await expect(requireSpace(directory, 2 ** 60, 'The moon')).rejects.toMatchObject({
      code: 'disk_full',
      message: expect.stringMatching(/^The moon needs 1073741824\.0 GiB .* GiB are free\.$/),
    });
    await requireSpace(directory, 1, 'A crumb');
  });
});
