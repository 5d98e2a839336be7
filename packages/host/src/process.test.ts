import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { childrenOf, identify, isAlive, killProcess, parseProcessStat, waitUntilGone } from './process.ts';

describe('/proc/<pid>/stat', () => {
  it('is parsed whatever the name of the process is', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 15 }), (name) => {
        const rest = Array.from({ length: 17 }, (_, index) => index).join(' ');
        expect(parseProcessStat(`42 (${name}) S 7 ${rest} 123456 9 9 9`)).toEqual({
          state: 'S',
          parentPid: 7,
          threads: 15,
          startTime: '123456',
        });
      }),
    );
  });

  it('is refused when it is cut off', () => {
    expect(parseProcessStat('42 (x) S 7 1 2 3')).toBeUndefined();
    expect(parseProcessStat('')).toBeUndefined();
  });
});

describe('a process', () => {
  it('is known by pid and start time until it is gone', async () => {
    const child = spawn('sleep', ['60']);
    await once(child, 'spawn');
    const identity = await identify(child.pid ?? 0);
    if (identity === undefined) throw new Error('there is no such process');
    expect(await isAlive(identity)).toBe(true);
    expect(await childrenOf(process.pid)).toContain(identity.pid);
    const other = { ...identity, startTime: '1' };
    expect(await isAlive(other)).toBe(false);
    expect(await killProcess(other, 'SIGKILL'), 'a recycled pid is never hit').toBe(false);
    expect(await isAlive(identity)).toBe(true);

    const gone = waitUntilGone(identity, { pollMs: 5 });
    expect(await killProcess(identity, 'SIGKILL')).toBe(true);
    await gone;
    expect(await killProcess(identity, 'SIGKILL')).toBe(false);
  });

  it('is waited for only as long as wanted', async () => {
    const identity = await identify(process.pid);
    if (identity === undefined) throw new Error('this process has no identity');
    const signal = AbortSignal.abort();
    await expect(waitUntilGone(identity, { pollMs: 5, signal })).rejects.toThrow();
  });
});
