import type { NoCgroups } from '@wrenn/host';
import { describe, expect, it } from 'vitest';
import { type CgroupsConfig, createCgroups } from './cgroups.ts';

const NONE: NoCgroups = { version: 'none', reason: 'v2 is mounted read-only' };
const CONFIG: CgroupsConfig = {
  mode: 'auto',
  memoryOverheadMib: 256,
  memoryOverheadPerVcpuMib: 64,
  cpuOverheadPercent: 50,
  pidsMax: 512,
};
const never = new AbortController().signal;

describe('on a machine without cgroups', () => {
  it('limits are off, and everything goes on without them', async () => {
    const cgroups = await createCgroups({ ...CONFIG, prefix: 'wt', found: NONE });
    expect(cgroups).toMatchObject({ status: 'off: v2 is mounted read-only', complete: false });
    await cgroups.prepare('abc', { memoryMib: 256, vcpus: 1 });
    await cgroups.enter('abc', [{ pid: process.pid }]);
    expect(await cgroups.whyKilled('abc')).toBeUndefined();
    expect(await cgroups.strays(new Set())).toEqual([]);
    await cgroups.remove('abc', never);
    await cgroups.stop();
  });

  it('the agent does not start if they are required', async () => {
    const work = createCgroups({ ...CONFIG, mode: 'required', prefix: 'wt', found: NONE });
    await expect(work).rejects.toMatchObject({
      code: 'cgroups_unavailable',
      message: 'Not all cgroup limits can be had: off: v2 is mounted read-only',
      field: 'cgroups.mode',
    });
  });

  it('nobody is told why if nobody wants them', async () => {
    const cgroups = await createCgroups({ ...CONFIG, mode: 'off', prefix: 'wt', found: NONE });
    expect(cgroups.status).toBe('off: the configuration says so');
  });
});

it('hierarchies that refuse in the end are as good as none', async () => {
  const nowhere = '/nonexistent/cgroup';
  const roots = new Map([
    ['memory', nowhere],
    ['cpu', nowhere],
    ['pids', nowhere],
  ] as const);
  const cgroups = await createCgroups({ ...CONFIG, prefix: 'wt', found: { version: 1, roots } });
  expect(cgroups).toMatchObject({
    status: 'off: /nonexistent/cgroup/wrenn-wt cannot be made (ENOENT).',
    complete: false,
  });
  await cgroups.prepare('abc', { memoryMib: 256, vcpus: 1 });
});
