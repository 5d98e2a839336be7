import { create } from '@bufbuild/protobuf';
import { ProcessConfigSchema, type ProcessSelector, ProcessSelectorSchema } from '@wrenn/protocol/process';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type ExitStatus, exitStatus } from './exit-status.ts';
import { createProcessRegistry, ENDED_MAX, EXIT_RETENTION_MS } from './registry.ts';
import type { RunningProcess } from './running-process.ts';

const byPid = (pid: number): ProcessSelector =>
  create(ProcessSelectorSchema, { selector: { case: 'pid', value: pid } });
const byTag = (tag: string): ProcessSelector =>
  create(ProcessSelectorSchema, { selector: { case: 'tag', value: tag } });

function process(pid: number, tag?: string): RunningProcess & { finish(code: number): Promise<void> } {
  const { promise, resolve } = promiseWithResolver<ExitStatus>();
  const unused = () => {
    throw new Error('not used here');
  };
  return {
    pid,
    tag,
    config: create(ProcessConfigSchema, {}),
    ended: promise,
    timedOut: unused,
    subscribe: unused,
    signal: unused,
    write: unused,
    closeStdin: unused,
    resize: unused,
    finish: async (code) => {
      resolve(exitStatus(code, null));
      await promise;
      await Promise.resolve();
    },
  };
}

function promiseWithResolver<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => {};
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

describe('process registry', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('finds by pid and by tag, the newest first', () => {
    const registry = createProcessRegistry();
    const [a, b] = [process(1, 'tag'), process(2, 'tag')];
    registry.add(a);
    registry.add(b);
    expect(registry.running(byPid(1))).toBe(a);
    expect(registry.running(byTag('tag'))).toBe(b);
    expect(() => registry.running(byPid(3))).toThrow('process with pid 3 not found');
    expect(() => registry.running(undefined)).toThrow('no process was selected');
  });

  it('keeps an exit for a while, and only for those who ask for it', async () => {
    const registry = createProcessRegistry();
    const a = process(1, 'tag');
    registry.add(a);
    await a.finish(7);
    expect(registry.list()).toEqual([]);
    expect(() => registry.running(byPid(1))).toThrow('not found');
    expect(registry.runningOrEnded(byTag('tag'))).toMatchObject({ pid: 1, exit: { exitCode: 7 } });
    vi.advanceTimersByTime(EXIT_RETENTION_MS);
    expect(() => registry.runningOrEnded(byPid(1))).toThrow('not found');
  });

  it('forgets an exit whose pid or tag is used anew', async () => {
    const registry = createProcessRegistry();
    const old = process(1, 'tag');
    registry.add(old);
    await old.finish(7);
    const [samePid, sameTag] = [process(1), process(2, 'tag')];
    registry.add(samePid);
    expect(registry.runningOrEnded(byPid(1))).toBe(samePid);
    registry.add(sameTag);
    expect(registry.runningOrEnded(byTag('tag'))).toBe(sameTag);
  });

  it('bounds how many exits it keeps', async () => {
    const registry = createProcessRegistry();
    for (let pid = 1; pid <= ENDED_MAX + 1; pid++) {
      const short = process(pid);
      registry.add(short);
      await short.finish(0);
    }
    expect(() => registry.runningOrEnded(byPid(1))).toThrow('not found');
    expect(registry.runningOrEnded(byPid(2))).toMatchObject({ pid: 2 });
  });
});
