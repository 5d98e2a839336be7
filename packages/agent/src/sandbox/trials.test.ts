/** Guests that refuse their settings after they were handed out, whose word it is, and what becomes of the template. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { describe, expect, it } from 'vitest';
import type { SandboxManager } from './manager.ts';
import type { FakeWorld } from './testing/fake-world.ts';
import { expectNothingLeft, request, start, until } from './testing/manager-harness.ts';

const REFUSAL = new WrennError('guest_protocol', 'no room');

interface Scene {
  readonly world: FakeWorld;
  readonly manager: SandboxManager;
  /** Of every guest that has acknowledged its settings, in the order in which they did. */
  readonly refuse: ((error: WrennError) => void)[];
}

/** With a warm template. */
async function startWarm(): Promise<Scene> {
  const { world, manager } = await start();
  await manager.warmTemplate(request);
  const refuse: Scene['refuse'] = [];
  world.onAnsweredFirst = (tell) => refuse.push(tell);
  return { world, manager, refuse };
}

const trials = ({ logged }: FakeWorld) =>
  logged.filter(({ message }) => message.startsWith('a warm template') && message.includes('tried out'));

async function fails({ manager }: Scene, id: string): Promise<void> {
  await until(() => manager.get(id).state === 'failed');
  expect(manager.get(id).reason).toBe('no room');
  await manager.destroy(id);
}

describe('a guest that refuses what it has acknowledged', () => {
  it('fails alone where a copy that nobody has touched does not: a tenant may have said so', async () => {
    const scene = await startWarm();
    const { world, manager, refuse } = scene;
    const { id, snapshotId } = await manager.create(request);
    expect(snapshotId).toBeDefined();
    refuse[0]?.(REFUSAL);
    await fails(scene, id);
    await until(() => trials(world).length === 1);
    // Of the trial nobody sees anything, and nothing is left.
    expect(refuse.length).toBe(2);
    expect(manager.list()).toEqual([]);
    await until(() => world.aliveVms().length === 0);
    const next = await manager.create(request);
    expect(next.snapshotId).toBe(snapshotId);
    await manager.destroy(next.id);
    expect(world.violations).toEqual([]);
  });

  it('costs one trial, however many say so', async () => {
    const scene = await startWarm();
    const { world, manager, refuse } = scene;
    const ids = await Promise.all(Array.from({ length: 5 }, async () => (await manager.create(request)).id));
    for (const tell of refuse.slice(0, 5)) tell(REFUSAL);
    for (const id of ids) await fails(scene, id);
    await until(() => trials(world).length === 1);
    const { id } = await manager.create(request);
    refuse.at(-1)?.(REFUSAL);
    await fails(scene, id);
    await sleep(50);
    // Five and one sandboxes, and one more.
    expect(refuse.length).toBe(7);
    expect(trials(world).length).toBe(1);
    expect(world.aliveVms()).toEqual([]);
  });

  it.each([
    ['refuses', (tell: () => void) => void setTimeout(tell, 1)],
    ['refuses at once', (tell: () => void) => tell()],
  ])('takes its warm template with it where a copy that nobody has touched %s, too', async (_, after) => {
    const scene = await startWarm();
    const { world, manager, refuse } = scene;
    const { id } = await manager.create(request);
    // Longer than the datagram takes.
    world.onExec = async function* () {
      yield* [];
      await sleep(1_000);
    };
    world.onAnsweredFirst = (tell) => after(() => tell(REFUSAL));
    refuse[0]?.(REFUSAL);
    await fails(scene, id);
    await until(() => world.manifests.size === 0);
    // So may one that has booted, which is no template's fault.
    world.onAnsweredFirst = (tell) => refuse.push(tell);
    const next = await manager.create(request);
    expect(next.snapshotId).toBeUndefined();
    refuse.at(-1)?.(REFUSAL);
    await fails(scene, next.id);
    await until(() => world.aliveVms().length === 0);
    expectNothingLeft(world);
  });

  it('takes its warm template with it where an untouched copy does nothing: its datagram is lost', async () => {
    const scene = await startWarm();
    const { world, manager, refuse } = scene;
    const { id } = await manager.create(request);
    world.onExec = async function* () {
      yield* [];
      throw new WrennError('guest_protocol', 'the settings were not applied');
    };
    refuse[0]?.(REFUSAL);
    await fails(scene, id);
    await until(() => world.manifests.size === 0);
    await until(() => world.aliveVms().length === 0);
    expectNothingLeft(world);
  });

  it('is tried again where there was no room for a trial', async () => {
    const scene = await startWarm();
    const { world, manager, refuse } = scene;
    const { snapshotId } = await manager.create(request);
    const second = await manager.create(request);
    world.disturb = async (operation) => {
      if (operation === 'journal') throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' });
    };
    refuse[0]?.(REFUSAL);
    await until(() => trials(world).length === 1);
    world.disturb = async () => {};
    refuse[1]?.(REFUSAL);
    await fails(scene, second.id);
    await until(() => trials(world).length === 2);
    for (const { id } of manager.list()) await manager.destroy(id);
    const third = await manager.create(request);
    expect(third.snapshotId).toBe(snapshotId);
    expect(world.violations).toEqual([]);
  });

  it('leaves no trial behind when the agent leaves', async () => {
    const scene = await startWarm();
    const { world, manager, refuse } = scene;
    await manager.create(request);
    world.onExec = async function* () {
      yield* [];
      await new Promise(() => {});
    };
    refuse[0]?.(REFUSAL);
    await until(() => refuse.length === 2);
    await manager.detach();
    await until(() => world.aliveVms().length === 0);
    expect(world.violations).toEqual([]);
  });
});
