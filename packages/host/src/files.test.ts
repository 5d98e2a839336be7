import { mkdtemp, open, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { runCommand } from './command.ts';
import { copySparse, freeBytes, makeExt4, prepareFile, writeFileDurably } from './files.ts';

const MIB = 1024 * 1024;
let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'wrenn-files-'));
});

afterEach(() => rm(directory, { recursive: true }));

it('a durable write replaces the file as a whole and leaves nothing beside it', async () => {
  const path = join(directory, 'a');
  await writeFileDurably(path, 'old', { mode: 0o600 });
  await writeFileDurably(path, 'new', { mode: 0o600 });
  expect(await readFile(path, 'utf8')).toBe('new');
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  await expect(writeFileDurably(join(directory, 'missing', 'a'), 'x')).rejects.toThrow();
  await expect(writeFileDurably(directory, 'x')).rejects.toThrow();
  expect(await readdir(directory)).toEqual(['a']);
});

it('a prepared file is nothing to anybody until it is committed, or never', async () => {
  const path = join(directory, 'a');
  await writeFileDurably(path, 'old');
  const prepared = await prepareFile(path, 'new', { mode: 0o600 });
  expect(await readFile(path, 'utf8')).toBe('old');
  await prepared.commit({ mayBeOld: true });
  expect(await readFile(path, 'utf8')).toBe('new');
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  const unwanted = await prepareFile(path, 'unwanted');
  await unwanted.discard();
  expect(await readFile(path, 'utf8')).toBe('new');
  expect(await readdir(directory)).toEqual(['a']);
});

it('a sparse copy has the same bytes and the same holes', async () => {
  const [from, to] = [join(directory, 'from'), join(directory, 'to')];
  const file = await open(from, 'w');
  await file.truncate(64 * MIB);
  await file.write('end', 40 * MIB);
  await file.close();
  await copySparse(from, to);
  const copied = await stat(to);
  expect(copied.size).toBe(64 * MIB);
  expect(copied.blocks * 512).toBeLessThan(MIB);
  await runCommand('cmp', [from, to], { timeoutMs: 10_000 });
});

it('an ext4 file is sparse, whole and never made over another file', async () => {
  const path = join(directory, 'layer');
  await makeExt4(path, 256, { label: 'layer' });
  const made = await stat(path);
  expect(made.size).toBe(256 * MIB);
  expect(made.blocks * 512).toBeLessThan(MIB);
  await runCommand('fsck.ext4', ['-f', '-n', path], { timeoutMs: 10_000 });
  const { stdout } = await runCommand('dumpe2fs', [path], { timeoutMs: 10_000 });
  expect(stdout.match(/^Group \d/gm)?.length).toBe(stdout.match(/ITABLE_ZEROED/g)?.length);
  await expect(makeExt4(path, 256)).rejects.toMatchObject({ code: 'EEXIST' });
});

it('free space is a number of bytes', async () => {
  expect(await freeBytes(directory)).toBeGreaterThan(MIB);
});
