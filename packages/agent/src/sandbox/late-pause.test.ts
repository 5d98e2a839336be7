/** A VMM that is too slow for its deadline, and carries out what it was told all the same, one thing after the other. */
import { expect, it } from 'vitest';
import type { Microvm, VmmDriver } from '../vmm/driver.ts';
import { createSandboxManager } from './manager.ts';
import { createFakeWorld } from './testing/fake-world.ts';
import { codeOf, expectNothingLeft, never, request } from './testing/manager-harness.ts';

/** Nothing is carried out until it goes on; whoever has waited for it may have left by then. */
function standStill(driver: VmmDriver): { slow: VmmDriver; stop: () => void; goOn: () => Promise<void> } {
  let goOn = (): void => {};
  let standing = Promise.resolve();
  let last: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> => {
    const mine = last.then(() => standing).then(work);
    last = mine.catch(() => {});
    return new Promise<T>((resolve, reject) => {
      mine.then(resolve, reject);
      signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
  };
  const slowed = (microvm: Microvm): Microvm => ({
    ...microvm,
    status: (signal) => inTurn(signal, () => microvm.status(signal)),
    pause: (signal) => inTurn(signal, () => microvm.pause(never)),
    resume: (signal) => inTurn(signal, () => microvm.resume(never)),
  });
  return {
    slow: { ...driver, launch: async (spec, options) => slowed(await driver.launch(spec, options)) },
    stop: () => {
      standing = new Promise((resolve) => {
        goOn = resolve;
      });
    },
    goOn: async () => {
      goOn();
      await last;
    },
  };
}

/** One sandbox, whose VMM can be made to stand still. */
async function startSlow() {
  const world = createFakeWorld({ config: { timeouts: { pauseMs: 100 }, warm: { mode: 'off' } } });
  const { slow, stop, goOn } = standStill(world.deps.driver);
  const manager = createSandboxManager({ ...world.deps, driver: slow });
  await manager.start(never);
  const { id } = await manager.create(request);
  return { world, manager, id, stop, goOn };
}

it.each(['running', 'paused'] as const)(
  'one that is %s is so for its VMM as well, when that carries out late what has failed by its deadline',
  async (state) => {
    const { world, manager, id, stop, goOn } = await startSlow();
    if (state === 'paused') await manager.pause(id);
    stop();
    expect(await codeOf(state === 'running' ? manager.pause(id) : manager.resume(id))).toBe(
      'deadline_exceeded',
    );
    await goOn();
    expect([manager.get(id).state, world.aliveVms()[0]?.status]).toEqual([state, state]);
    await (state === 'running' ? manager.pause(id) : manager.resume(id));
    await manager.destroy(id);
    expectNothingLeft(world);
  },
);

it.each(['hibernate', 'snapshot'] as const)(
  'one that runs goes on, and has not failed, when the pause for a %s has failed by its deadline',
  async (what) => {
    const { world, manager, id, stop, goOn } = await startSlow();
    stop();
    expect(await codeOf(manager[what](id))).toBe('deadline_exceeded');
    await goOn();
    expect([manager.get(id).state, world.aliveVms()[0]?.status]).toEqual(['running', 'running']);
    await manager.hibernate(id);
    await manager.destroy(id);
    expectNothingLeft(world);
  },
);
