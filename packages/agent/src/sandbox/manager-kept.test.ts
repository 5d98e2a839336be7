/** What an earlier agent has left, and this one can neither adopt nor end. */
import { describe, expect, it } from 'vitest';
import type { SandboxDeps } from './deps.ts';
import { createSandboxManager, type SandboxManager } from './manager.ts';
import { createFakeWorld, type FakeWorld } from './testing/fake-world.ts';
import { codeOf, expectNothingLeft, never, request, start, until } from './testing/manager-harness.ts';

const noDescriptors = (): Error =>
  Object.assign(new Error('EMFILE: too many open files'), { code: 'EMFILE' });

/** The next agent, in which some of what it is given is different. */
async function restart(
  before: FakeWorld,
  change: (deps: SandboxDeps) => Partial<SandboxDeps>,
): Promise<{ world: FakeWorld; manager: SandboxManager }> {
  before.killAgent();
  const world = createFakeWorld({ from: before });
  const manager = createSandboxManager({ ...world.deps, ...change(world.deps) });
  await manager.start(never);
  return { world, manager };
}

const withAdopt =
  (adopt: SandboxDeps['driver']['adopt']) =>
  ({ driver }: SandboxDeps): Partial<SandboxDeps> => ({ driverNamed: () => ({ ...driver, adopt }) });
const failsToAdopt = withAdopt(() => Promise.reject(noDescriptors()));

describe('a sandbox that cannot be adopted', () => {
  it('is kept as it is, and the next agent has it again', async () => {
    const { world: first, manager } = await start();
    const { id } = await manager.create(request);
    const journal = first.journals.get(id);
    const { world: second, manager: kept } = await restart(first, failsToAdopt);
    const vmmPid = first.aliveVms()[0]?.handle.pid;
    expect(kept.get(id)).toMatchObject({ state: 'failed', keptAs: 'running', vmmPid });
    expect(kept.get(id).reason).toContain('could not be adopted');
    expect(await codeOf(kept.resume(id))).toBe('sandbox_unavailable');
    expect(kept.access(id)).toEqual({ ...manager.access(id), address: undefined });
    expect(kept.liveCount()).toBe(1);
    expect(second.aliveVms()).toHaveLength(1);
    expect([...second.slots.values()]).toEqual(['up']);
    expect(second.layers.size).toBe(1);
    expect(second.journals.get(id)).toBe(journal);
    expect(second.logged.some(({ message }) => message.includes('is kept as it is'))).toBe(true);
    await kept.detach();
    const { world: third, manager: next } = await restart(second, () => ({}));
    expect(next.get(id).state).toBe('running');
    await next.destroy(id);
    expectNothingLeft(third);
  });

  it('can be destroyed', async () => {
    const { world: first, manager } = await start();
    const { id } = await manager.create(request);
    const { world, manager: kept } = await restart(first, failsToAdopt);
    await kept.destroy(id);
    expect(kept.list()).toEqual([]);
    expect(kept.liveCount()).toBe(0);
    expectNothingLeft(world);
  });

  it('ends when its time is up, unless it is to sleep then', async () => {
    const { world: first, manager } = await start();
    const { id } = await manager.create({ ...request, timeoutMs: 300, onTimeout: 'hibernate' });
    await manager.create({ ...request, timeoutMs: 300 });
    const { world, manager: kept } = await restart(first, failsToAdopt);
    await until(() => world.aliveVms().length === 1);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(kept.list()).toMatchObject([{ id, state: 'failed' }]);
    await kept.destroy(id);
    expectNothingLeft(world);
  });

  it('has the memory that it continues for as long as it is there', async () => {
    const { world: first, manager } = await start();
    const original = await manager.create(request);
    const [copy] = await manager.fork(original.id, { count: 1 });
    const { world: second, manager: kept } = await restart(first, failsToAdopt);
    await kept.destroy(original.id);
    const { world: third, manager: next } = await restart(second, () => ({}));
    await next.hibernate(copy?.id ?? '');
    expect((await next.resume(copy?.id ?? '')).state).toBe('running');
    await next.destroy(copy?.id ?? '');
    await until(() => third.manifests.size === 0);
    expectNothingLeft(third);
  });

  it('is tried again, where it was too much at once', async () => {
    const { world: first, manager } = await start();
    for (let count = 0; count < 6; count++) await manager.create(request);
    let atOnce = 0;
    const { manager: next } = await restart(first, (deps) =>
      withAdopt(async (handle, signal) => {
        atOnce++;
        try {
          await new Promise((resolve) => setTimeout(resolve, 1));
          if (atOnce > 3) throw noDescriptors();
          return await deps.driver.adopt(handle, signal);
        } finally {
          atOnce--;
        }
      })(deps),
    );
    expect(next.list().map(({ state }) => state)).toEqual(Array.from({ length: 6 }, () => 'running'));
  });
});

describe('a VMM that stands still', () => {
  it('is waited for once, and kept', async () => {
    const { world: first, manager } = await start();
    const { id } = await manager.create(request);
    let tries = 0;
    const { world, manager: kept } = await restart(first, ({ driver, config }) => ({
      config: { ...config, timeouts: { ...config.timeouts, adoptMs: 100 } },
      driverNamed: () => ({
        ...driver,
        adopt: (_handle, signal) => {
          tries++;
          return new Promise((_resolve, reject) => {
            signal.addEventListener('abort', () => reject(signal.reason));
          });
        },
      }),
    }));
    expect(tries).toBe(1);
    expect(kept.get(id)).toMatchObject({
      state: 'failed',
      reason: expect.stringContaining('longer than 100 ms'),
    });
    expect(world.aliveVms()).toHaveLength(1);
    await kept.destroy(id);
    expectNothingLeft(world);
  });
});

describe('a sandbox of an agent that knows more', () => {
  it.each(['running', 'hibernated'])('is kept as it is when it is %s', async (state) => {
    const { world: first, manager } = await start();
    const { id } = await manager.create(request);
    if (state === 'hibernated') await manager.hibernate(id);
    const record = JSON.parse(first.journals.get(id) ?? '');
    const journal = JSON.stringify({ ...record, fieldOfTomorrow: 1 });
    first.journals.set(id, journal);
    const memory = [...first.snapshots];
    const { world: second, manager: older } = await restart(first, () => ({}));
    expect(older.get(id)).toMatchObject({
      state: 'failed',
      keptAs: state,
      reason: expect.stringContaining('fieldOfTomorrow'),
    });
    expect(older.liveCount()).toBe(state === 'running' ? 1 : 0);
    expect(second.journals.get(id)).toBe(journal);
    expect([...second.snapshots]).toEqual(memory);
    // As it is for the agent that wrote it.
    first.journals.set(id, JSON.stringify(record));
    const { world: third, manager: newer } = await restart(second, () => ({}));
    expect(newer.get(id).state).toBe(state);
    if (state === 'hibernated') await newer.resume(id);
    await newer.destroy(id);
    expectNothingLeft(third);
  });

  it('takes no slot from another, and loses nothing to it, after the host was restarted', async () => {
    const { world: first, manager } = await start();
    const { id } = await manager.create(request);
    const record = JSON.parse(first.journals.get(id) ?? '');
    first.journals.set(id, JSON.stringify({ ...record, bootId: 'boot-0', fieldOfTomorrow: 1 }));
    for (const vm of first.aliveVms()) vm.die('power');
    first.slots.clear();
    const { world: second, manager: older } = await restart(first, () => ({}));
    const other = await older.create(request);
    expect(JSON.parse(second.journals.get(other.id) ?? '').slotIndex).toBe(record.slotIndex);
    const { world: third, manager: next } = await restart(second, () => ({}));
    expect(next.get(other.id).state).toBe('running');
    expect(next.get(id).state).toBe('failed');
    await next.destroy(id);
    await next.destroy(other.id);
    expectNothingLeft(third);
  });

  it.each([
    ['running', 'before'],
    ['running', 'after'],
    ['creating', 'before'],
    ['creating', 'after'],
  ])(
    'is kept as it is, though its slot is said to be that of another that is %s and read %s it',
    async (state, order) => {
      const { world: first, manager } = await start();
      const own = await manager.create(request);
      const { id } = await manager.create(request);
      const recordOf = (of: string) => JSON.parse(first.journals.get(of) ?? '');
      const { slotIndex, uid } = recordOf(own.id);
      const journal = JSON.stringify({ ...recordOf(id), slotIndex, uid, fieldOfTomorrow: 1 });
      first.journals.set(own.id, JSON.stringify({ ...recordOf(own.id), state }));
      first.journals.delete(id);
      const others = [...first.journals];
      if (order === 'after') first.journals.clear();
      first.journals.set(id, journal);
      for (const [otherId, text] of others) first.journals.set(otherId, text);
      const { world, manager: next } = await restart(first, () => ({}));
      expect(next.get(id)).toMatchObject({ state: 'failed', isKept: true });
      expect(world.journals.get(id)).toBe(journal);
      expect(next.get(own.id).state).toBe(state === 'running' ? 'running' : 'failed');
      expect(world.aliveVms()).toHaveLength(state === 'running' ? 2 : 1);
      expect([...world.slots]).toEqual([[slotIndex, 'up']]);
      await next.destroy(id);
      await next.destroy(own.id);
      expectNothingLeft(world);
    },
  );

  it('can be destroyed', async () => {
    const { world: first, manager } = await start();
    const ids = [(await manager.create(request)).id, (await manager.create(request)).id];
    await manager.hibernate(ids[0] ?? '');
    for (const id of ids) {
      const record = JSON.parse(first.journals.get(id) ?? '');
      first.journals.set(id, JSON.stringify({ ...record, fieldOfTomorrow: 1 }));
    }
    const { world, manager: older } = await restart(first, () => ({}));
    for (const id of ids) await older.destroy(id);
    expect(older.list()).toEqual([]);
    expectNothingLeft(world);
  });
});

describe('a process that does not end', () => {
  /** Of these sandboxes' nothing can be ended, until they are taken out. */
  const withStuck =
    (stuck: Set<string>) =>
    ({ killStrays }: SandboxDeps): Partial<SandboxDeps> => ({
      killStrays: async (suspects, signal) => {
        await killStrays(
          suspects.filter(({ id }) => !stuck.has(id)),
          signal,
        );
        const left = suspects.filter(({ id }) => stuck.has(id));
        return new Map(left.map(({ id }) => [id, 'its process 7 does not end']));
      },
    });

  it('keeps its sandbox, and stops no other', async () => {
    const { world: first, manager } = await start();
    const lost = await manager.create(request);
    const other = await manager.create(request);
    const text = first.journals.get(lost.id) ?? '';
    first.journals.set(lost.id, text.replace('"running"', '"destroying"'));
    const stuck = new Set([lost.id]);
    const { world, manager: next } = await restart(first, withStuck(stuck));
    expect(next.get(other.id).state).toBe('running');
    // It is lost all the same.
    expect(next.get(lost.id)).toMatchObject({ state: 'failed', keptAs: undefined });
    expect(await codeOf(next.resume(lost.id))).toBe('sandbox_failed');
    expect(next.get(lost.id).reason).toContain('its process 7 does not end');
    expect(world.slots.size).toBe(2);
    expect(world.layers.size).toBe(2);
    expect(await codeOf(next.destroy(lost.id))).toBe('internal');
    expect(world.slots.size).toBe(2);
    stuck.clear();
    await next.destroy(lost.id);
    await next.destroy(other.id);
    expectNothingLeft(world);
  });

  it('keeps its sandbox asleep, and from being woken', async () => {
    const { world: first, manager } = await start();
    const { id } = await manager.create(request);
    await manager.hibernate(id);
    const stuck = new Set([id]);
    const { world, manager: next } = await restart(first, withStuck(stuck));
    expect(next.get(id).state).toBe('hibernated');
    expect(await codeOf(next.resume(id))).toBe('internal');
    expect(next.get(id).state).toBe('hibernated');
    stuck.clear();
    expect((await next.resume(id)).state).toBe('running');
    await next.destroy(id);
    expectNothingLeft(world);
  });

  it('is looked for once for all that sleep, and when the others are adopted', async () => {
    const { world: first, manager } = await start();
    for (let count = 0; count < 20; count++) await manager.hibernate((await manager.create(request)).id);
    const running = await manager.create(request);
    const done: string[] = [];
    const { manager: next } = await restart(first, ({ driver, killStrays }) => ({
      driverNamed: () => ({
        ...driver,
        adopt: async (handle, signal) => {
          const microvm = await driver.adopt(handle, signal);
          done.push('adopted');
          return microvm;
        },
      }),
      killStrays: async (suspects, signal) => {
        done.push(`looked for ${suspects.length}`);
        return killStrays(suspects, signal);
      },
    }));
    expect(done).toEqual(['adopted', 'looked for 20']);
    expect(next.get(running.id).state).toBe('running');
  });
});
