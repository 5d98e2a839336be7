/** What a sandbox's owner has asked for in time is not undone by the end of its time. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { SandboxManager } from './manager.ts';
import type { FakeWorld } from './testing/fake-world.ts';
import { codeOf, expectNothingLeft, request, start, until } from './testing/manager-harness.ts';

const LIFE_MS = 10_000;
const HOUR_MS = 3_600_000;

// No machine is so slow that a sandbox ends before anything is asked of it.
beforeEach(() => void vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout'] }));
afterEach(() => void vi.useRealTimers());

const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

async function ended(manager: SandboxManager): Promise<void> {
  for (let ms = 0; ms < 1000 && manager.list().length > 0; ms++) await pass(1);
  expect(manager.list()).toEqual([]);
}

/** Makes the operation wait until it is let go on. */
function holdUp(world: FakeWorld, operation: string): { begun: () => boolean; goOn: () => void } {
  let goOn = (): void => {};
  let begun = false;
  const held = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  world.disturb = async (name) => {
    if (name !== operation) return;
    begun = true;
    await held;
  };
  return { begun: () => begun, goOn };
}

it('one that is falling asleep does so, however long that takes', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: LIFE_MS });
  const { begun, goOn } = holdUp(world, 'sealHibernation');
  const asleep = manager.hibernate(id);
  await until(begun);
  await pass(LIFE_MS + 100);
  goOn();
  expect(await asleep).toMatchObject({ state: 'hibernated', endsAtMs: undefined });
});

it('one that is to fall asleep does so, though that waits for its copy', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: LIFE_MS });
  const { begun, goOn } = holdUp(world, 'snapshot');
  const copy = manager.snapshot(id);
  await until(begun);
  const asleep = manager.hibernate(id);
  await pass(LIFE_MS + 100);
  goOn();
  expect((await copy).sandboxId).toBe(id);
  expect(await asleep).toMatchObject({ state: 'hibernated', endsAtMs: undefined });
});

it('one that could not fall asleep before its time is over ends then, and no sooner', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: LIFE_MS });
  world.disturb = async (name) => {
    if (name === 'sealHibernation') throw new Error('no');
  };
  expect(await codeOf(manager.hibernate(id))).not.toBe('no error');
  await pass(LIFE_MS - 100);
  expect(manager.get(id).state).toBe('running');
  await pass(200);
  await ended(manager);
  expectNothingLeft(world);
});

it('one that could not fall asleep in its time ends then', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: LIFE_MS });
  world.disturb = async (name) => {
    if (name !== 'sealHibernation') return;
    await pass(LIFE_MS + 100);
    throw new Error('no');
  };
  expect(await codeOf(manager.hibernate(id))).not.toBe('no error');
  await ended(manager);
  expectNothingLeft(world);
});

it('one that is given more time has it, though that waits for its copy', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: LIFE_MS });
  const { begun, goOn } = holdUp(world, 'snapshot');
  const copy = manager.snapshot(id);
  await until(begun);
  const longer = manager.setTimeout(id, HOUR_MS);
  await pass(LIFE_MS + 100);
  goOn();
  expect((await copy).sandboxId).toBe(id);
  expect((await longer).endsAtMs).toBeGreaterThan(Date.now() + HOUR_MS / 2);
});

it('one that is given more time has it, whatever fails before its turn', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: LIFE_MS });
  const { begun, goOn } = holdUp(world, 'snapshot');
  const first = manager.snapshot(id);
  await until(begun);
  const asleep = codeOf(manager.hibernate(id));
  const second = codeOf(manager.snapshot(id));
  const longer = manager.setTimeout(id, HOUR_MS);
  const { disturb } = world;
  world.disturb = async (name, signal) => {
    await disturb(name, signal);
    if (name === 'sealHibernation') throw new Error('no');
    if (name === 'copyLayer') await pass(200);
  };
  await pass(LIFE_MS + 100);
  goOn();
  await first;
  expect(await asleep).not.toBe('no error');
  expect(await second).toBe('no error');
  expect((await longer).endsAtMs).toBeGreaterThan(Date.now() + HOUR_MS / 2);
});

it('one whose time cannot be changed, as too much waits for it, ends in its time', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: 2 * LIFE_MS });
  const { begun, goOn } = holdUp(world, 'snapshot');
  const copies = [codeOf(manager.snapshot(id))];
  await until(begun);
  while (copies.length < 40) copies.push(codeOf(manager.snapshot(id)));
  await pass(50);
  expect(await codeOf(manager.setTimeout(id, undefined))).toBe('sandbox_wrong_state');
  await pass(2 * LIFE_MS);
  expect(manager.get(id).state).toBe('destroying');
  goOn();
  await Promise.all(copies);
  await ended(manager);
});

it('one that is given less keeps what it has until its turn comes', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: HOUR_MS });
  const { begun, goOn } = holdUp(world, 'snapshot');
  const copy = manager.snapshot(id);
  await until(begun);
  const shorter = manager.setTimeout(id, 50);
  await pass(150);
  expect(manager.get(id).state).toBe('running');
  goOn();
  await Promise.all([copy, codeOf(shorter)]);
  await ended(manager);
});

it('one that is given more time has it where that cannot be written down', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: LIFE_MS });
  world.disturb = async (name) => {
    if (name === 'journal') throw Object.assign(new Error('full'), { code: 'ENOSPC' });
  };
  expect(await codeOf(manager.setTimeout(id, HOUR_MS))).not.toBe('no error');
  await pass(LIFE_MS + 100);
  expect(manager.get(id)).toMatchObject({ state: 'running' });
  expect(manager.get(id).endsAtMs).toBeGreaterThan(Date.now() + HOUR_MS / 2);
});
