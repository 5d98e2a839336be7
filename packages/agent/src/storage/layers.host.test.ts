import { mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
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

it("copies a snapshot's layer as it is, small or large, and a sandbox's as it is now", async () => {
  const layers = createLayers(join(dir, 'layers'), 0);
  const [from, to] = [join(dir, 'from'), join(dir, 'to')];
  const copyAndCompare = async (whose: typeof owner | undefined): Promise<void> => {
    await layers.copy(from, to, whose, never);
    await runCommand('cmp', [from, to], { timeoutMs: 10_000 });
    const { uid, gid, mode, blocks } = await stat(to);
    expect([uid, gid, mode & 0o7777]).toEqual([whose?.uid ?? 0, whose?.gid ?? 0, 0o600]);
    expect(blocks).toBeLessThanOrEqual((await stat(from)).blocks);
    await rm(to);
  };
  const change = async (at: number, bytes: Buffer): Promise<void> => {
    const file = await open(from, 'r+');
    await file.write(bytes, 0, bytes.length, at);
    await file.close();
  };
  await layers.create(from, 64, { uid: 0, gid: 0 }, never);
  for (let round = 0; round < 2; round += 1) await copyAndCompare(owner);
  for (let round = 1; round < 3; round += 1) {
    await change(20 * 1024 * 1024 + round * 4096, Buffer.alloc(4096, round));
    await copyAndCompare(undefined);
  }
  await change(32 * 1024 * 1024, Buffer.alloc(2 * 1024 * 1024, 7));
  await copyAndCompare(owner);
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
