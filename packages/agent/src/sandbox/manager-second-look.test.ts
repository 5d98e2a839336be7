/** What the agent's start could not adopt, and looks at again. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { SandboxDeps } from './deps.ts';
import { createSandboxManager, type SandboxManager } from './manager.ts';
import { createFakeWorld, type FakeWorld } from './testing/fake-world.ts';
import { codeOf, expectNothingLeft, never, request, start, until } from './testing/manager-harness.ts';

type Adopt = SandboxDeps['driver']['adopt'];
/** Given what adopts as it should. */
type AdoptLike = (adopt: Adopt) => Adopt;

interface Next {
  readonly world: FakeWorld;
  readonly manager: SandboxManager;
}

const AGAIN_MS = 20;

/** The next agent, which adopts so. */
async function restart(before: FakeWorld, like: AdoptLike): Promise<Next> {
  before.killAgent();
  const world = createFakeWorld({ from: before });
  const { driver, config } = world.deps;
  const manager = createSandboxManager({
    ...world.deps,
    config: { ...config, timeouts: { ...config.timeouts, adoptAgainMs: AGAIN_MS, adoptMs: 5000 } },
    driverNamed: () => ({ ...driver, adopt: like(driver.adopt) }),
  });
  await manager.start(never);
  return { world, manager };
}

const fails = (): Promise<never> => Promise.reject(new Error('EMFILE: too many open files'));

const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

afterEach(() => void vi.useRealTimers());

/** Fails until it is opened. */
function createGate() {
  let stand = (): void => {};
  const gate = {
    open: false,
    during: async (_signal: AbortSignal): Promise<void> => {},
    /** The microVM does not say whether it runs; `stood` when it was asked. */
    standsStill: false,
    stood: new Promise<void>((resolve) => {
      stand = resolve;
    }),
    detached: 0,
    killed: 0,
    like: (adopt: Adopt): Adopt => {
      return async (handle, signal) => {
        if (!gate.open) return await fails();
        await gate.during(signal);
        const microvm = await adopt(handle, signal);
        return {
          ...microvm,
          status: async (limited) => {
            stand();
            if (gate.standsStill) await untilAborted(limited);
            return await microvm.status(limited);
          },
          detach: () => {
            gate.detached++;
            microvm.detach();
          },
          kill: async () => {
            gate.killed++;
            await microvm.kill();
          },
        };
      };
    },
  };
  return gate;
}

/** One that is kept by the agent that is there now. */
async function kept(change: object = {}) {
  const { world: first, manager: before } = await start();
  const { id } = await before.create({ ...request, ...change });
  const own = createGate();
  const { world, manager } = await restart(first, own.like);
  expect(manager.get(id)).toMatchObject({ state: 'failed', keptAs: 'running' });
  return { id, world, manager, gate: own };
}

describe('a sandbox that is kept', () => {
  it('is had again when what was in the way is gone', async () => {
    const { id, world, manager, gate } = await kept();
    await sleep(3 * AGAIN_MS);
    expect(manager.get(id).state).toBe('failed');
    gate.open = true;
    await until(() => manager.get(id).state === 'running');
    const view = manager.get(id);
    expect(view).toMatchObject({ reason: undefined, isKept: false, keptAs: undefined });
    expect(view.address).toBe(manager.access(id).address);
    expect(world.counted).toContain('adopted');
    // It is one as any other: what it holds is given back and comes again.
    await manager.pause(id);
    await manager.resume(id);
    await manager.hibernate(id);
    expect(gate.killed).toBe(1);
    expect(world.aliveVms()).toEqual([]);
    expect([...world.slots]).toEqual([]);
    expect((await manager.resume(id)).state).toBe('running');
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('is paused again where it was, and ends when its VMM does', async () => {
    const { world: first, manager: before } = await start();
    const { id } = await before.create(request);
    await before.pause(id);
    const own = createGate();
    const { world, manager } = await restart(first, own.like);
    own.open = true;
    await until(() => manager.get(id).state === 'paused');
    world.aliveVms()[0]?.die('power');
    await until(() => manager.get(id).state === 'failed');
    expect(manager.get(id).reason).toContain('power');
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('is taken away when its VMM has died meanwhile, and says why', async () => {
    const { id, world, manager, gate } = await kept();
    for (const vm of world.aliveVms()) vm.die('power');
    gate.open = true;
    await until(() => manager.liveCount() === 0);
    expect(manager.get(id)).toMatchObject({ state: 'failed', isKept: false, keptAs: undefined });
    expect(manager.get(id).reason).toContain('It is gone.');
    expect(await codeOf(manager.resume(id))).toBe('sandbox_failed');
    expectNothingLeft(world);
  });

  it('has the time it had', async () => {
    const { world: first, manager: before } = await start();
    const { id } = await before.create({ ...request, timeoutMs: 3_600_000, onTimeout: 'hibernate' });
    const record = JSON.parse(first.journals.get(id) ?? '');
    first.journals.set(id, JSON.stringify({ ...record, endsAtMs: Date.now() - 1 }));
    const own = createGate();
    const { world, manager } = await restart(first, own.like);
    await sleep(3 * AGAIN_MS);
    expect(manager.get(id)).toMatchObject({ state: 'failed', keptAs: 'running' });
    own.open = true;
    await until(() => manager.get(id).state === 'hibernated');
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('can be destroyed while it is looked at, on both sides of the adoption', async () => {
    const one = await kept();
    const looked = new Promise<void>((resolve) => {
      one.gate.during = (signal) => {
        resolve();
        return untilAborted(signal);
      };
    });
    one.gate.open = true;
    await looked;
    await one.manager.destroy(one.id);
    expect(one.manager.list()).toEqual([]);
    expectNothingLeft(one.world);

    const other = await kept();
    other.gate.standsStill = true;
    other.gate.open = true;
    await other.gate.stood;
    await other.manager.destroy(other.id);
    expect(other.manager.list()).toEqual([]);
    expectNothingLeft(other.world);
  });

  it('can be destroyed at the moment at which it is had', async () => {
    const { id, world, manager, gate } = await kept();
    let destroyed: Promise<void> | undefined;
    const push = world.counted.push.bind(world.counted);
    world.counted.push = (...what) => {
      if (what.includes('adopted')) destroyed = manager.destroy(id);
      return push(...what);
    };
    gate.open = true;
    await until(() => destroyed !== undefined);
    await destroyed;
    expect(gate.killed).toBe(1);
    expect(manager.list()).toEqual([]);
    expect(manager.liveCount()).toBe(0);
    expectNothingLeft(world);
  });

  it('is left as it is by an agent that goes while it looks, and one that has gone looks no more', async () => {
    const { id, world, manager, gate } = await kept();
    let looks = 0;
    const looked = new Promise<void>((resolve) => {
      gate.during = (signal) => {
        looks++;
        resolve();
        return untilAborted(signal);
      };
    });
    gate.open = true;
    await looked;
    await manager.detach();
    await sleep(3 * AGAIN_MS);
    expect(looks).toBe(1);
    expect(world.aliveVms()).toHaveLength(1);
    const { world: last, manager: next } = await restart(world, (adopt) => adopt);
    expect(next.get(id).state).toBe('running');
    await next.destroy(id);
    expectNothingLeft(last);
  });

  it('is let go of where the agent goes after the adoption', async () => {
    const { world: first, manager: before } = await start();
    await before.create(request);
    const own = createGate();
    const { world, manager } = await restart(first, own.like);
    own.standsStill = true;
    own.open = true;
    await own.stood;
    await manager.detach();
    expect(own.detached).toBe(1);
    expect(world.aliveVms()).toHaveLength(1);
    expect(world.violations).toEqual([]);
  });

  it('is let go of, and does not end at its time, where the agent goes at the moment at which it is had', async () => {
    vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout'] });
    const { id, world, manager, gate } = await kept({ timeoutMs: 60_000 });
    let detached: Promise<void> | undefined;
    const push = world.counted.push.bind(world.counted);
    world.counted.push = (...what) => {
      if (what.includes('adopted')) detached = manager.detach();
      return push(...what);
    };
    gate.open = true;
    await until(() => detached !== undefined);
    await detached;
    await vi.advanceTimersByTimeAsync(120_000);
    expect([gate.detached, gate.killed]).toEqual([1, 0]);
    expect(world.aliveVms()).toHaveLength(1);
    expect(JSON.parse(world.journals.get(id) ?? '')).toMatchObject({ state: 'running' });
  });

  it('is not looked at where it is for a newer agent', async () => {
    const { world: first, manager: before } = await start();
    const { id } = await before.create(request);
    const record = JSON.parse(first.journals.get(id) ?? '');
    first.journals.set(id, JSON.stringify({ ...record, fieldOfTomorrow: 1 }));
    let adoptions = 0;
    const { world, manager } = await restart(first, (adopt) => (handle, signal) => {
      adoptions++;
      return adopt(handle, signal);
    });
    await sleep(5 * AGAIN_MS);
    expect(adoptions).toBe(0);
    expect(manager.get(id).state).toBe('failed');
    await manager.destroy(id);
    expectNothingLeft(world);
  });

  it('says the newest reason', async () => {
    const { world: first, manager: before } = await start();
    const { id } = await before.create(request);
    let why = 'EMFILE';
    const { world, manager } = await restart(first, () => () => {
      return Promise.reject(new WrennError('vmm_api_error', why));
    });
    expect(manager.get(id).reason).toContain('EMFILE');
    why = 'it is silent';
    await until(() => manager.get(id).reason?.includes('it is silent') === true);
    await manager.destroy(id);
    expectNothingLeft(world);
  });
});
