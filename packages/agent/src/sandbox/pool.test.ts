/** What the pool keeps, and when it lets go; that its sandboxes are good ones is tested with real microVMs. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { afterEach, describe, expect, it } from 'vitest';
import type { SandboxManager } from './manager.ts';
import type { FakeWorld } from './testing/fake-world.ts';
import { request, start, until } from './testing/manager-harness.ts';

const SIZE = 3;
const MIN_AVAILABLE_MIB = 1000;

describe('the pool', () => {
  let world: FakeWorld;
  let manager: SandboxManager;
  afterEach(async () => manager.detach());

  const startFull = async (): Promise<void> => {
    const pool = { entries: [{ ...request, size: SIZE }], minAvailableMib: MIN_AVAILABLE_MIB };
    ({ world, manager } = await start({ config: { pool } }));
    await until(() => paused(world) === SIZE);
  };

  it('is filled again after one was taken', async () => {
    await startFull();
    const { phases } = await manager.create(request);
    expect(phases.map(({ name }) => name)).toContain('claim');
    await until(() => paused(world) === SIZE);
  });

  it('hands over what was asked for, also where the clock was set back meanwhile', async () => {
    await startFull();
    const setBackMs = performance.now() - 3_600_000;
    world.nowMs = () => setBackMs;
    const { id, address, phases } = await manager.create({ ...request, envs: { WISH: 'granted' } });
    expect(phases.map(({ name }) => name)).toContain('claim');
    expect(world.settings.get(address ?? '')?.envs).toMatchObject({ WISH: 'granted', E2B_SANDBOX_ID: id });
  });

  it('leaves the host for a moment to whoever was given one', async () => {
    await startFull();
    const beganMs = performance.now();
    await manager.create(request);
    await until(() => paused(world) === SIZE);
    expect(performance.now() - beganMs).toBeGreaterThan(250);
  });

  it('gives up its own while the host is short of memory, and fills up again afterwards', async () => {
    await startFull();
    world.availableMemoryMib = MIN_AVAILABLE_MIB - 1;
    await until(() => world.aliveVms().length === 0);
    // Enough for what is there, and not for one more.
    world.availableMemoryMib = MIN_AVAILABLE_MIB + request.memoryMib - 1;
    await sleep(1500);
    expect(world.aliveVms()).toEqual([]);
    world.availableMemoryMib = MIN_AVAILABLE_MIB + request.memoryMib;
    await until(() => paused(world) === SIZE);
    expect(world.violations).toEqual([]);
  });

  it('is not what fails where a guest does not take what it has acknowledged', async () => {
    await startFull();
    let refuse = (_error: WrennError): void => {};
    world.onAnsweredFirst = (tell) => {
      refuse = tell;
      world.onAnsweredFirst = () => {};
    };
    const { id, phases } = await manager.create(request);
    expect(phases.map(({ name }) => name)).toContain('claim');
    refuse(new WrennError('guest_protocol', 'no room'));
    await until(() => manager.get(id).state === 'failed');
    expect(manager.get(id).reason).toBe('no room');
    await manager.destroy(id);
    // Before the hand-over has ended: another is made instead.
    await until(() => paused(world) === SIZE);
    world.onAnsweredFirst = (tell) => {
      tell(new WrennError('guest_protocol', 'no room'));
      world.onAnsweredFirst = () => {};
    };
    const next = await manager.create(request);
    expect(next.state).toBe('running');
    expect(next.phases.map(({ name }) => name)).not.toContain('claim');
    expect(world.violations).toEqual([]);
  });

  it('destroys one whose hand-over cannot be journalled, and makes another', async () => {
    await startFull();
    let left = 1;
    world.disturb = async (operation) => {
      if (operation === 'journal' && left-- > 0) throw new WrennError('disk_full', 'no room');
    };
    const { id, state, phases } = await manager.create(request);
    expect([state, phases.map(({ name }) => name).includes('claim')]).toEqual(['running', false]);
    expect(manager.list().map((each) => each.id)).toEqual([id]);
    expect(world.violations).toEqual([]);
  });

  it('is filled with what can be made, whatever cannot, which is not tried again at once', async () => {
    const none = { ...request, template: 'none', size: 1 };
    const pool = { entries: [none, { ...request, size: SIZE }], minAvailableMib: MIN_AVAILABLE_MIB };
    ({ world, manager } = await start({ config: { pool } }));
    await until(() => paused(world) === SIZE);
    await manager.create(request);
    await until(() => paused(world) === SIZE);
    const told = world.logged.filter(({ message }) => message === 'the pool could not be filled');
    expect(told).toMatchObject([{ level: 'warn', fields: { template: 'none', nextInMs: 5000 } }]);
  });

  it('gives up what its template has left behind, before it makes another', async () => {
    await startFull();
    const { storage } = world.deps;
    const { resolveTemplate } = storage;
    let most = 0;
    world.disturb = async () => {
      most = Math.max(most, world.aliveVms().length);
    };
    const made = new Set(world.aliveVms().map(({ handle }) => handle.pid));
    storage.resolveTemplate = async (name) => ({ ...(await resolveTemplate(name)), buildId: 'anew' });
    const anew = () => world.aliveVms().filter(({ handle }) => !made.has(handle.pid)).length;
    await expect.poll(() => [anew(), paused(world)]).toEqual([SIZE, SIZE]);
    // Its own, and the one that a snapshot of the new build is made with.
    expect(most).toBeLessThanOrEqual(SIZE + 1);
    expect(world.violations).toEqual([]);
  });

  it('gives way to forks, too', async () => {
    const pool = { entries: [{ ...request, size: SIZE }], minAvailableMib: MIN_AVAILABLE_MIB };
    ({ world, manager } = await start({ config: { pool, limits: { maxSandboxes: SIZE + 1 } } }));
    await until(() => paused(world) === SIZE);
    const { id } = await manager.create({ ...request, memoryMib: request.memoryMib + 1 });
    expect(await manager.fork(id, { count: 2 })).toHaveLength(2);
  });

  it('takes nobody else away', async () => {
    await startFull();
    const { id } = await manager.create(request);
    world.availableMemoryMib = 0;
    await until(() => world.aliveVms().length === 1);
    await sleep(50);
    expect(manager.get(id).state).toBe('running');
  });
});

function paused(world: FakeWorld): number {
  return world.aliveVms().filter(({ status }) => status === 'paused').length;
}
