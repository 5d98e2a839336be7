/** What a sandbox's owner has asked for in time is not undone by the end of its time. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import type { FakeWorld } from './testing/fake-world.ts';
import { codeOf, expectNothingLeft, request, start, until } from './testing/manager-harness.ts';

const LIFE_MS = 400;
const HOUR_MS = 3_600_000;

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
  await sleep(LIFE_MS + 100);
  goOn();
  expect(await asleep).toMatchObject({ state: 'hibernated', endsAtMs: undefined });
});

it('one that could not fall asleep in its time ends then', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: LIFE_MS });
  world.disturb = async (name) => {
    if (name !== 'sealHibernation') return;
    await sleep(LIFE_MS + 100);
    throw new Error('no');
  };
  expect(await codeOf(manager.hibernate(id))).not.toBe('no error');
  await until(() => manager.list().length === 0);
  expectNothingLeft(world);
});

it('one that is given more time has it, though that waits for its copy', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: LIFE_MS });
  const { begun, goOn } = holdUp(world, 'snapshot');
  const copy = manager.snapshot(id);
  await until(begun);
  const longer = manager.setTimeout(id, HOUR_MS);
  await sleep(LIFE_MS + 100);
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
    if (name === 'copyLayer') await sleep(200);
  };
  await sleep(LIFE_MS + 100);
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
  await sleep(50);
  expect(await codeOf(manager.setTimeout(id, undefined))).toBe('sandbox_wrong_state');
  await until(() => manager.get(id).state === 'destroying');
  goOn();
  await Promise.all(copies);
  await until(() => manager.list().length === 0);
});

it('one that is given less keeps what it has until its turn comes', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: HOUR_MS });
  const { begun, goOn } = holdUp(world, 'snapshot');
  const copy = manager.snapshot(id);
  await until(begun);
  const shorter = manager.setTimeout(id, 50);
  await sleep(150);
  expect(manager.get(id).state).toBe('running');
  goOn();
  await Promise.all([copy, codeOf(shorter)]);
  await until(() => manager.list().length === 0);
});

it('one that is given more time has it where that cannot be written down', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create({ ...request, timeoutMs: LIFE_MS });
  world.disturb = async (name) => {
    if (name === 'journal') throw Object.assign(new Error('full'), { code: 'ENOSPC' });
  };
  expect(await codeOf(manager.setTimeout(id, HOUR_MS))).not.toBe('no error');
  await sleep(LIFE_MS + 100);
  expect(manager.get(id)).toMatchObject({ state: 'running' });
  expect(manager.get(id).endsAtMs).toBeGreaterThan(Date.now() + HOUR_MS / 2);
});
