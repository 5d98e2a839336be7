import { WrennError } from '@wrenn/protocol';
import { describe, expect, it } from 'vitest';
import { codeOf, expectNothingLeft, request, start, until } from './testing/manager-harness.ts';

const KILLED = 'It was killed because it used more memory than its limit of 512 MiB.';

describe('the cgroup of a sandbox', () => {
  it('has the VMM in it, and goes with the sandbox', async () => {
    const { world, manager } = await start();
    const { id, vmmPid } = await manager.create(request);
    expect([...world.cgroups]).toEqual([[id, [vmmPid]]]);
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it.each(['prepare', 'enter'])('fails the creation when it fails (%s), and leaves nothing', async (step) => {
    const { world, manager } = await start();
    world.disturb = async (operation) => {
      if (operation === step) throw new WrennError('cgroups_unavailable', 'The kernel says no.');
    };
    expect(await codeOf(manager.create(request))).toBe('cgroups_unavailable');
    const [failed] = manager.list();
    expect(failed).toMatchObject({ state: 'failed', reason: 'The kernel says no.' });
    expectNothingLeft(world);
  });

  it('is told of, and tried again, when it cannot be removed', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.disturb = async (operation) => {
      if (operation === 'removeCgroup') throw new Error('busy');
    };
    expect(await codeOf(manager.destroy(id))).toBe('internal');
    expect(manager.get(id).reason).toContain('cgroup');
    expect(world.journals.has(id)).toBe(true);
    world.disturb = async () => {};
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('says why the VMM was killed', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    world.killedBecause.set(id, KILLED);
    for (const vm of world.aliveVms()) vm.die('QEMU was killed by SIGKILL.');
    await until(() => manager.get(id).state === 'failed');
    expect(manager.get(id).reason).toBe(`QEMU was killed by SIGKILL. ${KILLED}`);
    expectNothingLeft(world);
  });

  it('says so of a creation, too', async () => {
    const { world, manager } = await start();
    world.disturb = async (operation) => {
      if (operation !== 'health') return;
      for (const id of world.cgroups.keys()) world.killedBecause.set(id, KILLED);
      throw new WrennError('vmm_died', 'QEMU was killed by SIGKILL.');
    };
    await expect(manager.create(request)).rejects.toMatchObject({
      code: 'vmm_died',
      message: `QEMU was killed by SIGKILL. ${KILLED}`,
    });
    expectNothingLeft(world);
  });
});

describe('cgroups that an earlier agent left', () => {
  it('are kept with the sandbox that is adopted, and go with it', async () => {
    const { world: before, manager: first } = await start();
    const { id } = await first.create(request);
    before.killAgent();
    const { world, manager } = await start({ from: before });
    expect([...world.cgroups.keys()]).toEqual([id]);
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('tell why a VMM was killed while no agent ran', async () => {
    const { world: before, manager: first } = await start();
    const { id } = await first.create(request);
    before.killAgent();
    before.killedBecause.set(id, KILLED);
    for (const vm of before.aliveVms()) vm.die('kill -9');
    const { world, manager } = await start({ from: before });
    expect(manager.get(id)).toMatchObject({ state: 'failed' });
    expect(manager.get(id).reason).toContain(KILLED);
    expectNothingLeft(world);
  });

  it('are taken away when nobody knows their sandbox', async () => {
    const { world: before } = await start();
    before.cgroups.set('stray', []);
    const { world } = await start({ from: before });
    expectNothingLeft(world);
    expect(world.logged.map(({ message }) => message)).toContain(
      'a cgroup that an earlier agent left was taken away',
    );
  });
});
