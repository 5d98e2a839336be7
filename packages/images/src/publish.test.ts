import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { publish, requireSpace, withLock } from './publish.ts';

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

describe('withLock', () => {
  const options = { onWait: () => {} };

  it('lets one in at a time, and the next one afterwards', async () => {
    const lock = join(directory, 'lock');
    const order: string[] = [];
    const first = withLock(lock, options, async () => {
      order.push('first in');
      await sleep(50);
      order.push('first out');
    });
    await sleep(10);
    const waits: number[] = [];
    await withLock(lock, { onWait: (pid) => waits.push(pid) }, async () => {
      order.push('second in');
    });
    await first;
    expect(order).toEqual(['first in', 'first out', 'second in']);
    expect(waits).toEqual([process.pid]);
    expect(existsSync(lock)).toBe(false);
  });

  it('takes the lock of a holder that is gone', async () => {
    const lock = join(directory, 'lock');
    writeFileSync(lock, JSON.stringify({ pid: process.pid, startTime: '1' }));
    expect(await withLock(lock, options, async () => 'mine')).toBe('mine');
  });

  it('stops waiting when it is told to', async () => {
    const lock = join(directory, 'lock');
    const release = new AbortController();
    const holder = withLock(
      lock,
      options,
      async () => await sleep(60_000, undefined, { signal: release.signal }).catch(() => {}),
    );
    await sleep(10);
    const waiting = withLock(lock, { ...options, signal: AbortSignal.timeout(30) }, async () => 'never');
    await expect(waiting).rejects.toMatchObject({ name: 'AbortError' });
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
