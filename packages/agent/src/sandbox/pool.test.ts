/** What the pool keeps, and when it lets go; that its sandboxes are good ones is tested with real microVMs. */
import { setTimeout as sleep } from 'node:timers/promises';
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
