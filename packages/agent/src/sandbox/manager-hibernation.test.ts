/** What a sandbox's memory is made of when it sleeps, who keeps that alive, and what becomes of one that cannot go on. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { describe, expect, it } from 'vitest';
import type { JournalRecord } from './journal-record.ts';
import { createSandboxManager } from './manager.ts';
import { createFakeWorld, type FakeWorld } from './testing/fake-world.ts';
import { codeOf, expectNothingLeft, never, request, start, until } from './testing/manager-harness.ts';

function recordOf(world: FakeWorld, id: string): JournalRecord {
  return JSON.parse(world.journals.get(id) ?? '{}');
}
const memoryOf = (id: string, number: number): string => `/s/${id}/hibernation-${number}/memory`;

it('what runs in another version than its agent has goes on, and is not written: nobody could restore it', async () => {
  const { world: before, manager: first } = await start();
  const { id } = await first.create(request);
  const asleep = await first.create(request);
  await first.hibernate(asleep.id);
  before.killAgent();
  const world = createFakeWorld({ from: before });
  const manager = createSandboxManager({ ...world.deps, driverVersion: '1.0.0' });
  await manager.start(never);
  for (const work of [manager.hibernate(id), manager.snapshot(id), manager.fork(id, { count: 1 })]) {
    expect(await codeOf(work)).toBe('snapshot_incompatible');
    expect(manager.get(id).state).toBe('running');
  }
  expect(await codeOf(manager.resume(asleep.id))).toBe('snapshot_incompatible');
  const { id: own } = await manager.create(request);
  await manager.hibernate(own);
  expect(recordOf(world, own).vmm).toEqual({ driver: 'qemu', version: '1.0.0' });
  expect(recordOf(world, id).vmm).toEqual({ driver: 'qemu', version: '0.0.0' });
});

describe('the memory of one that sleeps', () => {
  it('is whole for one that booted, and a delta of that from then on', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    for (let number = 1; number <= 4; number++) {
      await manager.hibernate(id);
      expect(recordOf(world, id)).toMatchObject({ hibernations: number, hibernation: { base: 1 } });
      expect([...world.snapshots]).toEqual([...new Set([memoryOf(id, 1), memoryOf(id, number)])]);
      expect(world.deltas.has(memoryOf(id, number))).toBe(number > 1);
      await manager.resume(id);
      expect(manager.get(id).state).toBe('running');
    }
    await manager.destroy(id);
    expectNothingLeft(world);
    expect([...world.snapshots]).toEqual([]);
  });

  it('is a delta of the snapshot that it came from, which is there as long as it is', async () => {
    const { world: before, manager: first } = await start();
    const original = await first.create(request);
    const { id: snapshotId } = await first.snapshot(original.id);
    const { id } = await first.create({ snapshotId });
    await first.hibernate(id);
    expect(recordOf(before, id).hibernation).toMatchObject({ base: 0, baseSha256: '0'.repeat(64) });
    await first.destroy(original.id);
    expect(await codeOf(first.deleteSnapshot(snapshotId))).toBe('snapshot_in_use');
    before.killAgent();

    const { world, manager } = await start({ from: before, bootId: 'boot-2' });
    expect(await codeOf(manager.deleteSnapshot(snapshotId))).toBe('snapshot_in_use');
    await manager.resume(id);
    await manager.hibernate(id);
    expect(world.deltas.get(memoryOf(id, 2))).toBe(`/snapshots/${snapshotId}/memory`);
    await manager.destroy(id);
    await manager.deleteSnapshot(snapshotId);
    expectNothingLeft(world);
    expect([...world.snapshots]).toEqual([]);
  });

  it('keeps the snapshot of a fork, which nobody else has any use for', async () => {
    const { world: before, manager: first } = await start();
    const original = await first.create(request);
    const [copy] = await first.fork(original.id, { count: 1 });
    const id = copy?.id ?? '';
    await first.hibernate(id);
    await first.destroy(original.id);
    before.killAgent();
    const { world, manager } = await start({ from: before });
    await manager.resume(id);
    expect(world.manifests.size).toBe(1);
    const { id: other } = await manager.create(request);
    world.disturb = async (operation) => {
      if (operation === 'removeSnapshot') await sleep(50);
    };
    // Whoever's end it is that takes it away, it is gone when a destroy has settled.
    await Promise.all([manager.destroy(id), manager.destroy(other)]);
    expect(world.manifests.size).toBe(0);
    expectNothingLeft(world);
  });

  it('is refused, and sleeps on, where its snapshot is not there or another', async () => {
    const { world, manager } = await start();
    const original = await manager.create(request);
    const { id: snapshotId } = await manager.snapshot(original.id);
    const { id } = await manager.create({ snapshotId });
    await manager.hibernate(id);
    const manifest = world.manifests.get(snapshotId);
    if (manifest === undefined) throw new Error('there is no manifest');
    world.manifests.set(snapshotId, { ...manifest, memorySha256: '3'.repeat(64) });
    expect(await codeOf(manager.resume(id))).toBe('snapshot_corrupt');
    world.manifests.delete(snapshotId);
    expect(await codeOf(manager.resume(id))).toBe('snapshot_corrupt');
    expect(manager.get(id).state).toBe('hibernated');
    world.manifests.set(snapshotId, manifest);
    await manager.resume(id);
    expect(manager.get(id).state).toBe('running');
  });

  it('is that of an agent that did not write down what it is', async () => {
    const { world: before, manager: first } = await start();
    const { id } = await first.create(request);
    await first.hibernate(id);
    const { hibernation: _, ...old } = recordOf(before, id);
    before.journals.set(id, JSON.stringify(old));
    before.killAgent();
    const { world, manager } = await start({ from: before });
    await manager.resume(id);
    await manager.hibernate(id);
    expect(recordOf(world, id).hibernation).toMatchObject({ base: 1, baseSha256: null });
    await manager.resume(id);
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it.each(['makeHibernation', 'snapshot', 'sealHibernation', 'journal', 'release', 'removeHibernations'])(
    'is the last or the next, whole, when the agent is killed at %s',
    async (operation) => {
      const { world: before, manager: first } = await start();
      const original = await first.create(request);
      const { id: snapshotId } = await first.snapshot(original.id);
      const { id } = await first.create({ snapshotId });
      await first.hibernate(id);
      await first.resume(id);
      let isDead = false;
      before.disturb = (name) => {
        isDead ||= name === operation;
        return isDead ? new Promise(() => {}) : Promise.resolve();
      };
      void first.hibernate(id);
      await until(() => isDead);
      const { world, manager } = await start({ from: before });
      const isAsleep = operation === 'release' || operation === 'removeHibernations';
      expect(manager.get(id).state).toBe(isAsleep ? 'hibernated' : 'running');
      const number = isAsleep ? 2 : 1;
      expect([...world.deltas.keys()].filter((path) => world.snapshots.has(path))).toEqual([
        memoryOf(id, number),
      ]);
      if (isAsleep) await manager.resume(id);
      await manager.destroy(id);
      await manager.destroy(original.id);
      await manager.deleteSnapshot(snapshotId);
      expectNothingLeft(world);
      expect([...world.snapshots]).toEqual([]);
    },
  );
});

it('does not end the agent where its disk cannot be synced while its memory is still written', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create(request);
  const unheard: unknown[] = [];
  const onUnheard = (reason: unknown): void => void unheard.push(reason);
  process.on('unhandledRejection', onUnheard);
  try {
    world.disturb = async (operation) => {
      if (operation === 'syncLayer') throw new WrennError('disk_full', 'no room');
      if (operation === 'snapshot') await sleep(20);
    };
    expect(await codeOf(manager.hibernate(id))).toBe('disk_full');
    expect(manager.get(id).state).toBe('running');
    expect(unheard).toEqual([]);
  } finally {
    process.off('unhandledRejection', onUnheard);
  }
});

it('a fork that may not be is refused before anything is done to its sandbox', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create(request);
  const done: string[] = [];
  world.disturb = async (operation) => void done.push(operation);
  const wrong = [
    { count: 0 },
    { count: 1, timeoutMs: 0 },
    { count: 1, timeoutMs: 2 ** 50 },
    { count: 1, metadata: { '': 'x' } },
    { count: 1, metadata: { a: 'x'.repeat(10_000_000) } },
  ];
  for (const each of wrong) expect(await codeOf(manager.fork(id, each))).toBe('invalid_argument');
  expect(done).toEqual([]);
  const [copy] = await manager.fork(id, { count: 1, timeoutMs: 60_000, metadata: { a: 'b' } });
  expect(copy).toMatchObject({ metadata: { a: 'b' } });
  for (const each of manager.list()) await manager.destroy(each.id);
  expectNothingLeft(world);
});

describe('one that sleeps', () => {
  it('sleeps on when it cannot be woken, also where that cannot be written down', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    await manager.hibernate(id);
    let isBroken = false;
    world.disturb = async (operation) => {
      isBroken ||= operation === 'setUp';
      if (isBroken && (operation === 'setUp' || operation === 'journal'))
        throw new WrennError('disk_full', `${operation} is broken`);
    };
    expect(await codeOf(manager.resume(id))).toBe('disk_full');
    expect(manager.get(id).state).toBe('hibernated');
    expect(manager.liveCount()).toBe(0);
    world.disturb = async () => {};
    await manager.resume(id);
    expect(manager.get(id).state).toBe('running');
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('is not woken while its last VMM is there', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.disturb = async (operation) => {
      if (operation === 'kill') throw new WrennError('deadline_exceeded', 'It does not end.');
    };
    await manager.hibernate(id);
    expect(world.aliveVms()).toHaveLength(1);
    expect(await codeOf(manager.resume(id))).toBe('internal');
    expect(manager.get(id).state).toBe('hibernated');
    expect(world.aliveVms()).toHaveLength(1);
    expect([...world.cgroups.keys()]).toEqual([id]);
    world.disturb = async () => {};
    await manager.resume(id);
    expect(world.aliveVms()).toHaveLength(1);
    await manager.destroy(id);
    expectNothingLeft(world);
  });
});

describe('one that stands still and cannot be continued', () => {
  const broken = (...operations: string[]) => {
    return async (operation: string): Promise<void> => {
      if (operations.includes(operation)) throw new WrennError('vmm_api_error', `${operation} is broken`);
    };
  };

  it.each(['pause', 'snapshot', 'sealHibernation', 'syncLayer'])(
    'has failed with its reason after a hibernation that failed at %s, and holds nothing',
    async (operation) => {
      const { world, manager } = await start();
      const { id } = await manager.create(request);
      world.disturb = broken(operation, 'resume');
      expect(await codeOf(manager.hibernate(id))).toBe('vmm_api_error');
      await until(() => manager.get(id).state === 'failed');
      expect(manager.get(id).reason).toBe('It could not be continued: resume is broken');
      expectNothingLeft(world);
      expect([...world.snapshots]).toEqual([]);
      await manager.destroy(id);
      expect(manager.list()).toEqual([]);
    },
  );

  it.each(['snapshot', 'fork'] as const)('has failed after a %s as well', async (what) => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.disturb = broken('resume');
    const copying = what === 'fork' ? manager.fork(id, { count: 1 }) : manager.snapshot(id);
    expect(await codeOf(copying)).toBe('vmm_api_error');
    await until(() => manager.get(id).state === 'failed');
    expectNothingLeft(world);
    expect(manager.listSnapshots()).toEqual([]);
    expect([...world.snapshots]).toEqual([]);
  });

  it.each(['snapshot', 'copyLayer'])('is told the time when its copy has failed at %s', async (broke) => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    const done: string[] = [];
    const failing = broken(broke);
    world.disturb = async (operation) => {
      done.push(operation);
      await failing(operation);
    };
    expect(await codeOf(manager.snapshot(id))).toBe('vmm_api_error');
    expect(done.filter((operation) => ['pause', 'resume', 'init'].includes(operation))).toEqual([
      'pause',
      'resume',
      'init',
    ]);
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('goes on where only the hibernation has failed, also when the journal cannot be written', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    for (const operation of [
      'pause',
      'makeHibernation',
      'snapshot',
      'sealHibernation',
      'syncLayer',
      'journal',
    ]) {
      world.disturb = broken(operation);
      expect(await codeOf(manager.hibernate(id)), operation).toBe('vmm_api_error');
      world.disturb = async () => {};
      expect(manager.get(id).state).toBe('running');
      expect(recordOf(world, id).state).toBe('running');
      expect([...world.snapshots]).toEqual([]);
    }
    await manager.hibernate(id);
    await manager.resume(id);
    await manager.destroy(id);
    expectNothingLeft(world);
  });
});
