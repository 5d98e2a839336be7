import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createLayers } from './layers.ts';

const owner = { uid: 1_960_000_001, gid: 1_960_000_001 };
const never = new AbortController().signal;
let dir: string;

beforeEach(async () => {
  dir = await mkdtemp('/tmp/wrenn-layers-');
});
afterEach(() => rm(dir, { recursive: true }));

it('makes sparse file systems of their own, from one master for each size', async () => {
  const layers = createLayers(join(dir, 'layers'), 0);
  const paths = ['a', 'b', 'c'].map((name) => join(dir, name));
  await Promise.all(paths.map((path) => layers.create(path, 64, owner, never)));
  expect(await readdir(join(dir, 'layers'))).toHaveLength(1);
  for (const path of paths) {
    const { uid, gid, mode, size, blocks } = await stat(path);
    expect({ uid, gid, mode: mode & 0o7777, size }).toEqual({
      ...owner,
      mode: 0o600,
      size: 64 * 1024 * 1024,
    });
    expect(blocks * 512).toBeLessThan(2 * 1024 * 1024);
    await runCommand('fsck.ext4', ['-n', '-f', path], { timeoutMs: 10_000 });
  }
  const before = await readFile(paths[1] ?? '');
  await writeFile(paths[0] ?? '', 'overwritten');
  expect(before.equals(await readFile(paths[1] ?? ''))).toBe(true);
});

it('refuses early what would not fit, and leaves nothing of what was aborted', async () => {
  const full = createLayers(join(dir, 'layers'), 1024 * 1024 * 1024);
  const refused = full.create(join(dir, 'a'), 64, owner, never);
  await expect(refused).rejects.toMatchObject({ code: 'disk_full' });
  const layers = createLayers(join(dir, 'layers'), 0);
  const aborted = layers.create(
    join(dir, 'a'),
    64,
    owner,
    AbortSignal.abort(new WrennError('cancelled', 'no')),
  );
  await expect(aborted).rejects.toMatchObject({ code: 'cancelled' });
  expect(await readdir(dir)).toEqual(['layers']);
});
