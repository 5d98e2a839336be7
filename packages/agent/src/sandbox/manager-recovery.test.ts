import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { collect } from './exec.ts';
import { createSandboxManager } from './manager.ts';
import { createFakeWorld } from './testing/fake-world.ts';
import { expectNothingLeft, never, request, start, until } from './testing/manager-harness.ts';

describe('what an earlier agent has left', () => {
  it('is adopted when it runs', async () => {
    const { world: before, manager: first } = await start();
    const running = await first.create({ ...request, metadata: { kept: 'yes' } });
    const paused = await first.create(request);
    await first.pause(paused.id);

    before.killAgent();
    const { world, manager } = await start({ from: before });
    expect(manager.get(running.id)).toMatchObject({ state: 'running', metadata: { kept: 'yes' } });
    expect(manager.get(paused.id).state).toBe('paused');
    const { stdout } = await collect(
      manager.exec(running.id, { command: ['echo', 'again'], envs: {}, stdin: false }, never),
    );
    expect(stdout).toBe('again');
    await manager.destroy(running.id);
    await manager.destroy(paused.id);
    expectNothingLeft(world);
  });

  it('goes on when it stands still and nobody had asked for that', async () => {
    const { world: before, manager: first } = await start();
    const { id } = await first.create(request);
    for (const vm of before.aliveVms()) vm.status = 'paused';
    before.killAgent();
    const { world, manager } = await start({ from: before });
    expect(manager.get(id).state).toBe('running');
    expect(world.aliveVms().map(({ status }) => status)).toEqual(['running']);
  });

  it('runs when it was to be paused, and that had not happened yet', async () => {
    const { world: before, manager: first } = await start();
    const { id } = await first.create(request);
    await first.pause(id);
    for (const vm of before.aliveVms()) vm.status = 'running';
    before.killAgent();
    const { manager } = await start({ from: before });
    expect(manager.get(id).state).toBe('running');
  });

  it('sleeps on, and can be woken, also after the host was restarted', async () => {
    const { world: before, manager: first } = await start();
    const { id } = await first.create(request);
    await first.hibernate(id);
    expect(before.aliveVms()).toEqual([]);
    expect([...before.slots]).toEqual([]);
    before.killAgent();
    const { world, manager } = await start({ from: before, bootId: 'boot-2' });
    expect(manager.get(id).state).toBe('hibernated');
    expect(manager.liveCount()).toBe(0);
    expect((await manager.resume(id)).state).toBe('running');
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it.each(['makeHibernation', 'syncLayer', 'snapshot', 'sealHibernation'])(
    'goes on when the agent died in the middle of its hibernation, at %s',
    async (operation) => {
      const { world: before, manager: first } = await start();
      const { id } = await first.create(request);
      let isDead = false;
      before.disturb = (name) => {
        isDead ||= name === operation;
        return isDead ? new Promise(() => {}) : Promise.resolve();
      };
      void first.hibernate(id);
      await until(() => isDead);
      const { world, manager } = await start({ from: before });
      expect(manager.get(id).state).toBe('running');
      await manager.destroy(id);
      expectNothingLeft(world);
    },
  );

  it('sleeps on when it was being woken, whoever has been given its slot since', async () => {
    const { world: before, manager: first } = await start();
    const asleep = await first.create(request);
    await first.hibernate(asleep.id);
    const other = await first.create(request);
    const { slotIndex, uid } = JSON.parse(before.journals.get(other.id) ?? '');
    const record = JSON.parse(before.journals.get(asleep.id) ?? '');
    before.journals.set(asleep.id, JSON.stringify({ ...record, state: 'resuming', slotIndex, uid }));
    before.killAgent();
    const { world, manager } = await start({ from: before });
    expect(manager.get(other.id).state).toBe('running');
    expect(manager.get(asleep.id).state).toBe('hibernated');
    expect((await manager.resume(asleep.id)).state).toBe('running');
    await manager.destroy(asleep.id);
    await manager.destroy(other.id);
    expectNothingLeft(world);
  });

  it('is lost when its VMM has died, and taken away when it was half made', async () => {
    const { world: before, manager: first } = await start();
    const dead = await first.create(request);
    const half = await first.create(request);
    before.killAgent();
    before.vms.get(dead.vmmPid ?? 0)?.die('kill -9');
    const text = before.journals.get(half.id) ?? '';
    before.journals.set(half.id, text.replace('"running"', '"creating"'));
    before.killAgent();
    const { world, manager } = await start({ from: before });
    expect(manager.get(dead.id)).toMatchObject({ state: 'failed' });
    expect(manager.get(half.id)).toMatchObject({
      state: 'failed',
      reason: 'The agent ended during the creation.',
    });
    expectNothingLeft(world);
  });

  it.each(['the host was restarted', 'another was half made'])(
    'has the memory that it continues, although %s and others end first',
    async (how) => {
      const { world: before, manager: first } = await start();
      const original = await first.create(request);
      const [copy] = await first.fork(original.id, { count: 1 });
      await first.hibernate(copy?.id ?? '');
      const isNewBoot = how === 'the host was restarted';
      if (isNewBoot) {
        for (const vm of before.aliveVms()) vm.die('power');
        before.slots.clear();
      } else {
        const text = before.journals.get(original.id) ?? '';
        before.journals.set(original.id, text.replace('"running"', '"creating"'));
      }
      before.killAgent();
      const { world, manager } = await start({ from: before, bootId: isNewBoot ? 'boot-2' : 'boot-1' });
      expect(manager.get(original.id).state).toBe('failed');
      expect((await manager.resume(copy?.id ?? '')).state).toBe('running');
      await manager.destroy(copy?.id ?? '');
      await manager.destroy(original.id);
      await until(() => world.manifests.size === 0);
      expectNothingLeft(world);
    },
  );

  it('is lost when the host was restarted', async () => {
    const { world: before, manager: first } = await start();
    const { id } = await first.create(request);
    before.killAgent();
    for (const vm of before.aliveVms()) vm.die('power');
    before.slots.clear();
    before.killAgent();
    const { world, manager } = await start({ from: before, bootId: 'boot-2' });
    expect(manager.get(id)).toMatchObject({ state: 'failed', reason: 'The host was restarted.' });
    expectNothingLeft(world);
  });

  it('does not stop the agent when the disk is full', async () => {
    const { world: before, manager: first } = await start();
    const asleep = await first.create(request);
    await first.hibernate(asleep.id);
    const running = await first.create(request);
    await first.pause(running.id);
    const record = JSON.parse(before.journals.get(asleep.id) ?? '');
    before.journals.set(asleep.id, JSON.stringify({ ...record, state: 'resuming' }));
    for (const vm of before.aliveVms()) vm.status = 'running';
    // The second finds what the first could not write down.
    let from = before;
    for (const isFull of [true, true, false]) {
      from.killAgent();
      const world = createFakeWorld({ from });
      world.disturb = async (operation) => {
        if (isFull && ['journal', 'removeHibernations'].includes(operation))
          throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
      };
      const manager = createSandboxManager(world.deps);
      await manager.start(never);
      expect(manager.get(asleep.id).state).toBe('hibernated');
      expect(manager.get(running.id).state).toBe('running');
      from = world;
      if (isFull) continue;
      expect((await manager.resume(asleep.id)).state).toBe('running');
      for (const { id } of manager.list()) await manager.destroy(id);
      expectNothingLeft(world);
    }
  });

  it('does not stop the agent when it is corrupt', async () => {
    const { world: before, manager: first } = await start();
    const good = await first.create(request);
    const bad = await first.create(request);
    before.killAgent();
    before.vms.get(bad.vmmPid ?? 0)?.die('kill -9');
    before.journals.set(bad.id, '{"version":1,"surprise":true}');
    before.killAgent();
    const { world, manager } = await start({ from: before });
    expect(manager.list().map(({ id }) => id)).toEqual([good.id]);
    expect(world.journals.has(bad.id)).toBe(false);
    expect(world.logged.some(({ message }) => message.includes('corrupt'))).toBe(true);
  });

  it('is destroyed when its time was up meanwhile, however long another takes to be found', async () => {
    const { world: before, manager: first } = await start();
    const expired = await first.create(request);
    const other = await first.create(request);
    const record = JSON.parse(before.journals.get(expired.id) ?? '');
    before.journals.set(expired.id, JSON.stringify({ ...record, endsAtMs: Date.now() - 1000 }));
    before.killAgent();
    const world = createFakeWorld({ from: before });
    const slow = JSON.parse(before.journals.get(other.id) ?? '').slotIndex;
    const { network } = world.deps;
    const setEgress: typeof network.setEgress = async (index, egress, signal) => {
      if (index === slow) await sleep(50);
      await network.setEgress(index, egress, signal);
    };
    const manager = createSandboxManager({ ...world.deps, network: { ...network, setEgress } });
    await manager.start(never);
    await until(() => manager.list().length === 1);
    expect(manager.liveCount()).toBe(1);
    await manager.destroy(other.id);
    expect(manager.list()).toEqual([]);
    expectNothingLeft(world);
  });
});
