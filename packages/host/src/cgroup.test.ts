import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CgroupLimits, createCgroupTree } from './cgroup.ts';
import { findCgroups } from './cgroup-hierarchies.ts';
import { createFakeCgroup2, type FakeCgroup2, type FakeCgroup2Options } from './testing/fake-cgroup2.ts';

const LIMITS: CgroupLimits = { memoryBytes: 512 * 1024 ** 2, cpus: 1.5, pids: 256 };
const GROUP = ['wrenn-wt', 'abc'];
const DIR = '/sys/fs/cgroup/wrenn-wt/abc';

async function setUp(options: FakeCgroup2Options = {}) {
  const kernel = createFakeCgroup2(options);
  const found = await findCgroups(kernel.files);
  if (found.version === 'none') throw new Error(found.reason);
  return { kernel, tree: createCgroupTree(found, kernel.files) };
}

function limitsOf({ contents }: FakeCgroup2): Record<string, string | undefined> {
  const names = ['memory.max', 'memory.swap.max', 'memory.oom.group', 'cpu.max', 'pids.max'];
  return Object.fromEntries(names.map((name) => [name, contents.get(`${DIR}/${name}`)]));
}

describe('a group of version 2', () => {
  it('has its limits, and the controllers handed down to it', async () => {
    const { kernel, tree } = await setUp();
    await tree.make(GROUP, LIMITS);
    expect(limitsOf(kernel)).toEqual({
      'memory.max': '536870912',
      'memory.swap.max': '0',
      'memory.oom.group': '1',
      'cpu.max': '150000 100000',
      'pids.max': '256',
    });
    expect(kernel.contents.get('/sys/fs/cgroup/cgroup.subtree_control')).toBe('memory cpu pids');
    expect(kernel.contents.get(`${DIR}/cgroup.subtree_control`)).toBe('');
  });

  it('can be made again, is entered, listed and removed', async () => {
    const { kernel, tree } = await setUp();
    const before = new Map(kernel.contents);
    await tree.make(GROUP, LIMITS);
    await tree.make(GROUP, LIMITS);
    expect(await tree.enter(GROUP, 4242)).toBe(true);
    expect(await tree.members(GROUP)).toEqual([4242]);
    expect(await tree.children(['wrenn-wt'])).toEqual(['abc']);
    expect(await tree.remove(GROUP)).toBe(false);
    kernel.contents.set(`${DIR}/cgroup.procs`, '');
    expect(await tree.remove(['wrenn-wt'])).toBe(false);
    expect(await tree.remove(GROUP)).toBe(true);
    expect(await tree.remove(GROUP)).toBe(true);
    expect(await tree.children(['wrenn-wt'])).toEqual([]);
    expect(await tree.remove(['wrenn-wt'])).toBe(true);
    expect(await tree.children(['wrenn-wt'])).toEqual([]);
    before.set('/sys/fs/cgroup/cgroup.subtree_control', 'memory cpu pids');
    expect(kernel.contents).toEqual(before);
  });

  it('does without a file that the kernel does not have', async () => {
    const { kernel, tree } = await setUp();
    await tree.make(GROUP);
    kernel.contents.delete(`${DIR}/memory.swap.max`);
    await tree.make(GROUP, LIMITS);
    expect(limitsOf(kernel)).toMatchObject({ 'memory.max': '536870912', 'memory.swap.max': undefined });
  });

  it('says which file was refused, and what to do', async () => {
    const { kernel, tree } = await setUp();
    await tree.make(GROUP);
    kernel.contents.delete(`${DIR}/cpu.max`);
    await expect(tree.make(GROUP, LIMITS)).rejects.toMatchObject({
      code: 'cgroups_unavailable',
      message: `${DIR}/cpu.max does not take "150000 100000" (ENOENT).`,
    });
  });

  it.each([
    ['', undefined],
    ['low 0\nhigh 0\nmax 7\noom 0\noom_kill 0\n', undefined],
    ['max 7\noom 1\noom_kill 1\noom_group_kill 1\n', { atOwnLimit: true, limitBytes: 536870912 }],
    ['max 0\noom 0\noom_kill 1\n', { atOwnLimit: false, limitBytes: 536870912 }],
    ['oom_kill lots\n', undefined],
  ])('whose events are %j was killed: %j', async (events, expected) => {
    const { kernel, tree } = await setUp();
    await tree.make(GROUP, LIMITS);
    kernel.contents.set(`${DIR}/memory.events`, events);
    expect(await tree.oomKill(GROUP)).toEqual(expected);
  });

  it('leaves alone what it cannot name', async () => {
    const { kernel, tree } = await setUp();
    const before = new Map(kernel.contents);
    const bad = fc.oneof(
      fc.constantFrom('', '.', '..', 'a/b', '../system.slice', 'A', 'a b', '-a', 'a\n'),
      fc.string().filter((text) => !/^[a-z0-9][a-z0-9-]{0,63}$/.test(text)),
    );
    await fc.assert(
      fc.asyncProperty(bad, async (part) => {
        for (const name of [[], [part], ['wrenn-wt', part]]) {
          await expect(tree.make(name, LIMITS)).rejects.toMatchObject({ code: 'invalid_argument' });
          await expect(tree.enter(name, 1)).rejects.toMatchObject({ code: 'invalid_argument' });
          await expect(tree.remove(name)).rejects.toMatchObject({ code: 'invalid_argument' });
        }
      }),
    );
    expect(kernel.contents).toEqual(before);
  });
});
