import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findBootFiles, wrennDirFromEnv } from '@wrenn/images';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { VERDICT_FILE } from './kvm-probe.ts';
import { type SelectOptions, selectDriver } from './select.ts';

let directory: string;
let options: SelectOptions;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'wrprobe-'));
  const { kernelPath, initrdPath } = await findBootFiles(wrennDirFromEnv());
  options = {
    preference: 'auto',
    firecracker: { binary: '/nonexistent/firecracker' },
    probe: { kernelPath, initrdPath, directory, uid: 1_900_089_999, timeoutMs: 8000 },
    signal: new AbortController().signal,
  };
});
afterAll(() => rm(directory, { recursive: true }));

/** When the verdict was written; undefined where there is none, since KVM cannot even be opened. */
async function keptAt(): Promise<bigint | undefined> {
  const stats = await stat(join(directory, VERDICT_FILE), { bigint: true }).catch(() => undefined);
  return stats?.mtimeNs;
}

it('finds something that runs guests, says why, and remembers it', async () => {
  const first = await selectDriver(options);
  expect(first.driver.name).toBe('qemu');
  expect(first.driver.features.accelerator).toBe(first.kvm.usable ? 'kvm' : 'tcg');
  expect(first.version).toMatch(/^\d+\.\d+\.\d+$/);
  expect(first.reason).toMatch(
    /^KVM: (usable|absent|opens but guests do not run|.* cannot be opened).*; QEMU/,
  );
  // Nothing of the probe's microVM is left.
  expect((await readdir(directory)).filter((name) => name !== VERDICT_FILE)).toEqual([]);

  const before = await keptAt();
  const second = await selectDriver(options);
  expect(second.reason).toBe(first.reason);
  expect(await keptAt()).toBe(before);
}, 60_000);

it('asks anew when what it depends on has changed', async () => {
  const file = join(directory, VERDICT_FILE);
  const kept = await readFile(file, 'utf8').catch(() => undefined);
  // Where KVM cannot even be opened, nothing is kept, as nothing was tried.
  if (kept === undefined) return;
  const lie = JSON.parse(kept);
  await writeFile(file, JSON.stringify({ ...lie, reason: 'a lie' }));
  expect((await selectDriver(options)).kvm.reason).toBe('a lie');
  await writeFile(
    file,
    JSON.stringify({ ...lie, reason: 'a lie', key: { ...lie.key, qemuVersion: '0.0.0' } }),
  );
  expect((await selectDriver(options)).kvm.reason).not.toBe('a lie');
  await writeFile(file, 'not JSON');
  expect((await selectDriver(options)).kvm.reason).not.toBe('a lie');
}, 90_000);

it('does not give Firecracker to who asks for it where it cannot run', async () => {
  const { kvm } = await selectDriver(options);
  await expect(selectDriver({ ...options, preference: 'firecracker' })).rejects.toMatchObject({
    code: kvm.usable ? 'missing_program' : 'driver_unavailable',
  });
}, 60_000);
