/** What the tests of the manager share. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { expect } from 'vitest';
import { createSandboxManager, type SandboxManager } from '../manager.ts';
import { createFakeWorld, type FakeWorld, type FakeWorldOptions } from './fake-world.ts';

/** A signal that nobody aborts. */
export const never = new AbortController().signal;

/** A manager in a world of its own, started. */
export async function start(
  options: FakeWorldOptions = {},
): Promise<{ world: FakeWorld; manager: SandboxManager }> {
  const world = createFakeWorld(options);
  const manager = createSandboxManager(world.deps);
  await manager.start(never);
  return { world, manager };
}

/** No microVM, slot, layer, cgroup or journal, and no rule of the world broken on the way. */
export function expectNothingLeft(world: FakeWorld): void {
  expect(world.aliveVms()).toEqual([]);
  expect([...world.slots]).toEqual([]);
  expect([...world.layers]).toEqual([]);
  expect([...world.cgroups]).toEqual([]);
  expect([...world.journals.keys()]).toEqual([]);
  expect(world.violations).toEqual([]);
}

/** The stable code that the work fails with. */
export async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'no error';
  } catch (error) {
    return error instanceof WrennError ? error.code : String(error);
  }
}

export async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 15_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('it did not come about');
    await sleep(2);
  }
}

export const request = { template: 'base', vcpus: 1, memoryMib: 256, diskMib: 128 };
