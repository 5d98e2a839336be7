/** The decisions alone, with microVMs that do as told: real ones do not hang when asked to. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CONSOLE_INIT_STARTED, WrennError } from '@wrenn/protocol';
import { describe, expect, it } from 'vitest';
import { type BootOptions, bootMicrovm, type Launcher } from './boot.ts';
import type { ExitReason, Microvm, MicrovmHandle } from './driver.ts';

interface Script {
  readonly console: readonly string[];
  /** The VMM ends after so many milliseconds. */
  readonly exitsAfterMs?: number;
  readonly launchError?: unknown;
  /** Launching takes for ever, until it is called off. */
  readonly launchHangs?: boolean;
}

const handle: MicrovmHandle = { driver: 'qemu', pid: 1, startTime: '1', wrappers: [], runDir: '/r' };

/** Launches one microVM after the other as the scripts have it. */
function launcher(...scripts: Script[]) {
  const running = new Set<number>();
  let launched = 0;
  const driver: Launcher<string> = {
    async launch(_, { signal, onSpawned }) {
      const script = scripts[launched] ?? { console: [] };
      const number = ++launched;
      if (script.launchError !== undefined) throw script.launchError;
      if (script.launchHangs) {
        await new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => reject(new WrennError('cancelled', 'called off')));
        });
      }
      running.add(number);
      await onSpawned(handle);
      const exited =
        script.exitsAfterMs === undefined
          ? new Promise<ExitReason>(() => {})
          : sleep(script.exitsAfterMs).then(() => ({ message: 'It died.', log: [] }));
      const microvm: Microvm = {
        handle,
        exited,
        status: async () => 'running',
        pause: async () => {},
        resume: async () => {},
        snapshot: async () => {},
        consoleTail: async () => [...script.console],
        diagnose: async () => `diagnosis ${number}`,
        kill: async () => void running.delete(number),
        detach: () => {},
      };
      return microvm;
    },
  };
  return { driver, running, launched: () => launched };
}

function options(changes: Partial<BootOptions> = {}) {
  const failed: [number, string, unknown][] = [];
  const boot: BootOptions = {
    signal: new AbortController().signal,
    onSpawned: async () => {},
    ready: () => new Promise<void>(() => {}),
    bootDeadlineMs: 50,
    attempts: 3,
    onAttemptFailed: (...details) => failed.push(details),
    ...changes,
  };
  return { boot, failed };
}

const HUNG: Script = { console: ['[    0.1] Linux version'] };
const STARTED: Script = { console: ['[    0.1] Linux version', CONSOLE_INIT_STARTED, 'mount failed'] };

describe('a boot', () => {
  it('that is ready is handed over, and lives', async () => {
    const { driver, running } = launcher({ console: [] });
    const { boot, failed } = options({ ready: () => sleep(10), bootDeadlineMs: 1000 });
    await bootMicrovm(driver, 'spec', boot);
    await sleep(1100);
    expect(running.size).toBe(1);
    expect(failed).toEqual([]);
  });

  it('whose kernel hangs is tried again', async () => {
    const { driver, running, launched } = launcher(HUNG, HUNG, STARTED);
    let tries = 0;
    const ready = (): Promise<void> => (++tries < 3 ? new Promise(() => {}) : sleep(1));
    const { boot, failed } = options({ ready, bootDeadlineMs: 300 });
    await bootMicrovm(driver, 'spec', boot);
    expect(launched()).toBe(3);
    expect([...running]).toEqual([3]);
    expect(failed.map(([attempt, diagnosis]) => [attempt, diagnosis])).toEqual([
      [1, 'diagnosis 1'],
      [2, 'diagnosis 2'],
    ]);
  });

  it('is not tried for ever', async () => {
    const { driver, running, launched } = launcher(HUNG, HUNG, HUNG, HUNG);
    await expect(bootMicrovm(driver, 'spec', options().boot)).rejects.toMatchObject({
      code: 'boot_timeout',
      message: "The guest's kernel was not up within 50 ms. Its console ends with: [    0.1] Linux version",
    });
    expect(launched()).toBe(3);
    expect(running.size).toBe(0);
  });

  it('whose init ran is not tried again', async () => {
    const { driver, running, launched } = launcher(STARTED);
    await expect(bootMicrovm(driver, 'spec', options().boot)).rejects.toMatchObject({
      code: 'boot_timeout',
      message: expect.stringMatching(/^The guest was not up within 50 ms.*mount failed$/),
    });
    expect(launched()).toBe(1);
    expect(running.size).toBe(0);
  });

  it('whose VMM ends says so at once', async () => {
    const { driver, running, launched } = launcher({ ...HUNG, exitsAfterMs: 10 });
    const { boot, failed } = options({ bootDeadlineMs: 10_000 });
    await expect(bootMicrovm(driver, 'spec', boot)).rejects.toMatchObject({
      code: 'vmm_died',
      message: 'It died. Its console ends with: [    0.1] Linux version',
    });
    expect(launched()).toBe(1);
    expect(running.size).toBe(0);
    expect(failed).toHaveLength(1);
  });

  it('tells of the end rather than of the connection that it broke', async () => {
    const { driver } = launcher({ ...STARTED, exitsAfterMs: 30 });
    const ready = () => Promise.reject(new WrennError('guest_unreachable', 'connection reset'));
    await expect(
      bootMicrovm(driver, 'spec', options({ ready, bootDeadlineMs: 10_000 }).boot),
    ).rejects.toMatchObject({ code: 'vmm_died' });
  });

  it('tells of the end also where this process stood still for longer than it waits', async () => {
    const { driver } = launcher({ ...STARTED, exitsAfterMs: 300 });
    const ready = () => {
      setTimeout(() => standStill(1_000), 5);
      return Promise.reject(new WrennError('guest_unreachable', 'connection reset'));
    };
    await expect(
      bootMicrovm(driver, 'spec', options({ ready, bootDeadlineMs: 10_000 }).boot),
    ).rejects.toMatchObject({ code: 'vmm_died' });
  });

  it('whose guest says no fails with what it said', async () => {
    const { driver, running } = launcher(STARTED);
    const refusal = new WrennError('guest_protocol', 'no');
    const { boot } = options({ ready: () => Promise.reject(refusal), bootDeadlineMs: 10_000 });
    await expect(bootMicrovm(driver, 'spec', boot)).rejects.toBe(refusal);
    expect(running.size).toBe(0);
  });

  it('is cancelled with its caller, also when `ready` makes something else of it', async () => {
    const { driver, running, launched } = launcher(HUNG, HUNG);
    const caller = new AbortController();
    setTimeout(() => caller.abort(), 20);
    const ready = (_: Microvm, signal: AbortSignal) =>
      new Promise<void>((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(new Error('socket hang up')));
      });
    const { boot } = options({ signal: caller.signal, ready, bootDeadlineMs: 10_000 });
    await expect(bootMicrovm(driver, 'spec', boot)).rejects.toMatchObject({ code: 'cancelled' });
    expect(launched()).toBe(1);
    expect(running.size).toBe(0);
  });

  it('heeds its deadline when `ready` makes something else of it', async () => {
    const ready = (_: Microvm, signal: AbortSignal) =>
      new Promise<void>((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(new Error('socket hang up')));
      });
    const { driver, launched } = launcher(HUNG, HUNG);
    const { boot } = options({ ready, attempts: 2 });
    await expect(bootMicrovm(driver, 'spec', boot)).rejects.toMatchObject({ code: 'boot_timeout' });
    expect(launched()).toBe(2);
  });

  it('that cannot be launched fails with the reason, and a launch that hangs with the deadline', async () => {
    const reason = new WrennError('missing_program', 'no QEMU');
    const { boot } = options();
    await expect(bootMicrovm(launcher({ console: [], launchError: reason }).driver, '', boot)).rejects.toBe(
      reason,
    );
    const hanging = launcher({ console: [], launchHangs: true });
    await expect(bootMicrovm(hanging.driver, '', boot)).rejects.toMatchObject({ code: 'boot_timeout' });
    expect(hanging.launched()).toBe(1);
  });
});

function standStill(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
