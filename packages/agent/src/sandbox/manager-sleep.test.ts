/** What a hibernation costs those who use the sandbox, above all one that comes to nothing. */
import { WrennError } from '@wrenn/protocol';
import { afterEach, expect, it, vi } from 'vitest';
import type { ExecOutput } from './exec.ts';
import type { SandboxManager } from './manager.ts';
import { endEvent, type FakeWorld, startEvent } from './testing/fake-world.ts';
import { codeOf, expectNothingLeft, never, request, start } from './testing/manager-harness.ts';

const MINUTE_MS = 60_000;

afterEach(() => void vi.useRealTimers());

/** A command that is under way, and what ends it. */
async function follow(
  world: FakeWorld,
  manager: SandboxManager,
  id: string,
): Promise<{ outputs: AsyncGenerator<ExecOutput>; finish: () => void }> {
  let finish = (): void => {};
  const finished = new Promise<void>((resolve) => {
    finish = resolve;
  });
  world.onExec = async function* () {
    yield startEvent(42);
    await finished;
    yield endEvent(0);
  };
  const outputs = manager.exec(id, { command: ['x'], envs: {}, stdin: false }, never);
  await outputs.next();
  return { outputs, finish };
}

const breakAt = (world: FakeWorld, broken: string): void => {
  world.disturb = async (operation) => {
    if (operation === broken) throw new WrennError('disk_full', 'no room');
  };
};

it.each(['pause', 'makeHibernation', 'snapshot', 'sealHibernation', 'syncLayer', 'journal'])(
  'a command is followed to its end, though a hibernation has failed at %s meanwhile',
  async (operation) => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    const { outputs, finish } = await follow(world, manager, id);
    breakAt(world, operation);
    expect(await codeOf(manager.hibernate(id))).toBe('disk_full');
    world.disturb = async () => {};
    finish();
    expect((await outputs.next()).value).toMatchObject({ kind: 'exited', exitCode: 0 });
    await manager.destroy(id);
    expectNothingLeft(world);
  },
);

it('whoever follows a command is told that the sandbox sleeps, once that is sure, and nothing is killed', async () => {
  const { world, manager } = await start();
  const { id } = await manager.create(request);
  const { outputs } = await follow(world, manager, id);
  const told = codeOf(outputs.next()).then((code) => [code, manager.get(id).state]);
  await manager.hibernate(id);
  expect(await told).toEqual(['sandbox_wrong_state', 'hibernated']);
  expect(world.signalled).toEqual([]);
  await manager.resume(id);
  await follow(world, manager, id);
  await manager.destroy(id);
  expectNothingLeft(world);
});

it.each(['running', 'paused'] as const)(
  'one that is %s is left alone where there is no room at all',
  async (state) => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    if (state === 'paused') await manager.pause(id);
    const done: string[] = [];
    world.disturb = async (operation) => void done.push(operation);
    world.availableDiskBytes = 1024 * 1024;
    expect(await codeOf(manager.hibernate(id))).toBe('disk_full');
    expect(done).toEqual([]);
    expect(manager.get(id).state).toBe(state);
    world.availableDiskBytes = 1024 * 1024 * 1024;
    await manager.hibernate(id);
    await manager.destroy(id);
    expectNothingLeft(world);
  },
);

it('one whose time is over is tried ever less often, and anew when it was given more', async () => {
  const { world, manager } = await start({ config: { warm: { mode: 'off' } } });
  vi.useFakeTimers();
  const { id } = await manager.create({ ...request, timeoutMs: MINUTE_MS, onTimeout: 'hibernate' });
  const triedAtMin: number[] = [];
  let sinceMs = Date.now();
  world.disturb = async (operation) => {
    if (operation !== 'snapshot') return;
    triedAtMin.push((Date.now() - sinceMs) / MINUTE_MS);
    throw new WrennError('disk_full', 'no room');
  };
  await vi.advanceTimersByTimeAsync(62 * MINUTE_MS);
  expect(triedAtMin).toEqual([1, 2, 4, 8, 16, 31, 46, 61]);
  // Nor does what somebody else has tried in vain begin it anew.
  expect(await codeOf(manager.hibernate(id))).toBe('disk_full');
  await vi.advanceTimersByTimeAsync(13 * MINUTE_MS);
  expect(triedAtMin.slice(8)).toEqual([62]);

  triedAtMin.length = 0;
  sinceMs = Date.now();
  await manager.setTimeout(id, 5 * MINUTE_MS);
  await vi.advanceTimersByTimeAsync(9 * MINUTE_MS);
  expect(triedAtMin).toEqual([5, 6, 8]);
  world.disturb = async () => {};
  await vi.advanceTimersByTimeAsync(4 * MINUTE_MS);
  expect(manager.get(id)).toMatchObject({ state: 'hibernated', endsAtMs: undefined });
  await manager.destroy(id);
  expectNothingLeft(world);
});
