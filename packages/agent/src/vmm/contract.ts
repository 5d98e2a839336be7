/**
 * What every driver promises, tried with real microVMs. A driver's own test file calls `describeDriverContract`;
 * nothing of the product imports this file.
 */
import { readFile, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive, waitUntilGone } from '@wrenn/host';
import { CONSOLE_INIT_STARTED } from '@wrenn/protocol';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { describeFailedLaunches } from './contract-launches.ts';
import { describeSnapshots } from './contract-snapshots.ts';
import type { Microvm, VmmDriver } from './driver.ts';
import { createWorkbench, lastTick, settledTick, type Workbench, waitForLine } from './testing/workbench.ts';

export interface DriverContract {
  /** A driver as a restarted agent would make it: each call gives a new one. */
  readonly createDriver: () => VmmDriver;
  /** Names the network namespace, user and directory apart from those of other suites. */
  readonly number: number;
  /** Of one boot of a kernel with a small initrd, on a loaded host. */
  readonly bootTimeoutMs: number;
  /** Firecracker has no power button: a guest that powers itself off halts, and its VMM goes on. */
  readonly cannotPowerOff?: boolean;
  /** The jailer leaves the bounding set alone; `no_new_privs` makes that harmless. */
  readonly keepsBoundingSet?: boolean;
  /** A byte that a guest was printing as it was paused may be printed again by its copy; docs/firecracker.md has why. */
  readonly repeatsByte?: boolean;
  /** Why it cannot be tried here; its cases are then reported as skipped. */
  readonly skippedBecause?: string;
}

/** At once: long before the watchdog asks again. */
const NOTICE_MS = 8_000;
const CONSOLE_FILE_LIMIT_BYTES = 512 * 1024;
const TICK = /^tick \d+$/;
const never = new AbortController().signal;

export function describeDriverContract(name: string, contract: DriverContract): void {
  const { skippedBecause } = contract;
  const title = skippedBecause === undefined ? name : `${name} (skipped: ${skippedBecause})`;
  describe.skipIf(skippedBecause !== undefined)(title, () => describeCases(contract));
}

function describeCases(contract: DriverContract): void {
  const { createDriver, bootTimeoutMs } = contract;
  const TEST_MS = bootTimeoutMs + 30_000;
  let bench: Workbench;

  beforeAll(async () => {
    bench = await createWorkbench(contract.number);
  }, 30_000);
  afterAll(() => bench.dispose(), 30_000);

  const nothingLeft = async (): Promise<void> => {
    expect(await bench.processes()).toEqual([]);
    expect((await bench.files()).filter((file) => !file.endsWith('.log'))).toEqual([]);
  };

  describe('a running microVM', () => {
    let microvm: Microvm;
    beforeAll(async () => {
      microvm = await createDriver().launch(bench.spec(), bench.options());
      await waitForLine(microvm, TICK, bootTimeoutMs);
    }, TEST_MS);
    afterAll(async () => {
      await microvm.kill();
      await nothingLeft();
    });

    it('is what the handle says, which was told before, and survives a journal', () => {
      expect(bench.spawned.at(-1)).toEqual(microvm.handle);
      expect(JSON.parse(JSON.stringify(microvm.handle))).toEqual(microvm.handle);
    });

    it('has its drives in order, read-only as asked, and its MAC address', async () => {
      const lines = await microvm.consoleTail(100);
      expect(lines).toContain(CONSOLE_INIT_STARTED);
      expect(
        lines
          .filter((line) => line.startsWith('disk '))
          .map((line) => line.replace(/^(disk \w+) \w+ (\d+) /, '$1 $2 ')),
      ).toEqual(['disk vda 2048 ro=1', 'disk vdb 4096 ro=1', 'disk vdc 6144 ro=0']);
      expect(lines).toContain('mac 02:00:00:00:00:01');
    });

    it('runs without privileges, in namespaces of its own, with limits', async () => {
      const { pid, wrappers } = microvm.handle;
      const status = await readFile(`/proc/${pid}/status`, 'utf8');
      expect(status).toMatch(new RegExp(`^Uid:(\\s+${bench.uid}){4}$`, 'm'));
      expect(status).toMatch(new RegExp(`^Gid:(\\s+${bench.uid}){4}$`, 'm'));
      expect(status).toMatch(/^Groups:\s*$/m);
      for (const set of ['Inh', 'Prm', 'Eff', 'Amb', ...(contract.keepsBoundingSet ? [] : ['Bnd'])]) {
        expect(status).toMatch(new RegExp(`^Cap${set}:\\s+0{16}$`, 'm'));
      }
      expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
      expect(status).toMatch(/^Seccomp:\s+2$/m);
      expect(status).toMatch(/^NSpid:\s+\d+\s+1$/m);
      for (const kind of ['mnt', 'pid', 'ipc', 'uts']) {
        expect(await readlink(`/proc/${pid}/ns/${kind}`)).not.toBe(await readlink(`/proc/self/ns/${kind}`));
      }
      const { netns } = bench.spec().network;
      expect((await stat(`/proc/${pid}/ns/net`)).ino).toBe((await stat(`/run/netns/${netns}`)).ino);
      expect(await readFile(`/proc/${pid}/limits`, 'utf8')).toMatch(/^Max core file size\s+0\s+0\s/m);
      for (const wrapper of wrappers) expect(await isAlive(wrapper)).toBe(true);
      expect((await bench.processes()).sort()).toEqual([pid, ...wrappers.map((each) => each.pid)].sort());
    });

    it('sees no more of the host than it needs', async () => {
      const root = `/proc/${microvm.handle.pid}/root`;
      for (const path of ['/home', '/root', '/proc/1', '/sys/class', '/run/netns', '/etc/passwd', '/tmp/x']) {
        await expect(stat(join(root, path))).rejects.toMatchObject({ code: 'ENOENT' });
      }
    });

    it('stands still while paused, says so, and goes on', async () => {
      expect(await microvm.status(never)).toBe('running');
      await microvm.pause(never);
      expect(await microvm.status(never)).toBe('paused');
      const before = await settledTick(microvm);
      await sleep(600);
      expect(await lastTick(microvm)).toBe(before);
      await microvm.pause(never);
      await microvm.resume(never);
      expect(await microvm.status(never)).toBe('running');
      await expect.poll(() => lastTick(microvm), { timeout: 30_000 }).toBeGreaterThan(before);
      await microvm.resume(never);
    });

    it('can be asked what it is doing', async () => {
      const diagnosis = await microvm.diagnose(never);
      expect(diagnosis).toMatch(/tick \d+/);
      expect(diagnosis.length).toBeLessThan(64 * 1024);
    });

    it('does not do what was called off', async () => {
      await expect(microvm.pause(AbortSignal.abort())).rejects.toMatchObject({ code: 'cancelled' });
      expect(await microvm.status(never)).toBe('running');
    });

    it('goes on without an agent, is adopted by the next one, and obeys it', async () => {
      const before = await lastTick(microvm);
      microvm.detach();
      await sleep(300);
      const first = microvm;
      microvm = await createDriver().adopt(structuredClone(first.handle), never);
      expect(microvm.handle).toEqual(first.handle);
      expect(await microvm.status(never)).toBe('running');
      await expect.poll(() => lastTick(microvm), { timeout: 30_000 }).toBeGreaterThan(before + 3);
      await microvm.pause(never);
      expect(await microvm.status(never)).toBe('paused');
      await microvm.resume(never);
    });

    it('once adopted, is missed at once when it is killed', async () => {
      const start = performance.now();
      process.kill(microvm.handle.pid, 'SIGKILL');
      const reason = await microvm.exited;
      expect(performance.now() - start).toBeLessThan(NOTICE_MS);
      expect(reason.message).toMatch(/ended/);
      await expect(createDriver().adopt(microvm.handle, never)).rejects.toMatchObject({ code: 'vmm_died' });
    });
  });

  describe('the end of a microVM', () => {
    let microvm: Microvm | undefined;
    afterEach(async () => {
      await microvm?.kill();
      microvm = undefined;
      await nothingLeft();
    });

    it(
      'by SIGKILL is noticed at once, with the reason, and leaves the console to read',
      async () => {
        microvm = await createDriver().launch(bench.spec(), bench.options());
        await waitForLine(microvm, TICK, bootTimeoutMs);
        const start = performance.now();
        process.kill(microvm.handle.pid, 'SIGKILL');
        const reason = await microvm.exited;
        expect(performance.now() - start).toBeLessThan(NOTICE_MS);
        expect(reason.message).toMatch(/was killed by SIGKILL/);
        expect((await microvm.consoleTail(5)).some((line) => TICK.test(line))).toBe(true);
        await expect(microvm.status(never)).rejects.toMatchObject({ name: 'WrennError' });
        expect(await microvm.diagnose(never)).toMatch(/tick/);
      },
      TEST_MS,
    );

    it(
      'by the guest itself is told',
      async () => {
        for (const task of [contract.cannotPowerOff ? 'reboot' : 'poweroff', 'panic'] as const) {
          microvm = await createDriver().launch(bench.spec({ task }), bench.options());
          const timeout = sleep(bootTimeoutMs, undefined, { ref: false });
          const reason = await Promise.race([microvm.exited, timeout]);
          expect(reason?.message).toMatch(/guest/i);
          await microvm.kill();
        }
      },
      TEST_MS + bootTimeoutMs,
    );

    it(
      'by kill takes everything along, as often as it is called, also while it hangs',
      async () => {
        const doomed = await createDriver().launch(bench.spec(), bench.options());
        microvm = doomed;
        process.kill(doomed.handle.pid, 'SIGSTOP');
        await expect(doomed.status(AbortSignal.timeout(300))).rejects.toMatchObject({ name: 'WrennError' });
        await Promise.all([doomed.kill(), doomed.kill()]);
        await doomed.kill();
        await nothingLeft();
        await doomed.exited;
      },
      TEST_MS,
    );

    it(
      'is not the end of its wrapper, and is noticed without it',
      async () => {
        const orphan = await createDriver().launch(bench.spec(), bench.options());
        microvm = orphan;
        for (const wrapper of orphan.handle.wrappers) {
          process.kill(wrapper.pid, 'SIGKILL');
          await waitUntilGone(wrapper, { pollMs: 10 });
        }
        expect(await orphan.status(never)).toBe('running');
        const start = performance.now();
        process.kill(orphan.handle.pid, 'SIGKILL');
        await orphan.exited;
        expect(performance.now() - start).toBeLessThan(NOTICE_MS);
      },
      TEST_MS,
    );
  });

  describe.skipIf(!createDriver().features.snapshot)('a snapshot', () =>
    describeSnapshots({ createDriver, bench: () => bench, nothingLeft, bootTimeoutMs }, contract),
  );

  describe('a hostile console', () => {
    // Of a test that failed half way: the next one must not suffer from it.
    afterEach(() => bench.killProcesses());

    it(
      'that floods is bounded, blocks nobody, and drops what nobody reads',
      async () => {
        const first = await createDriver().launch(bench.spec({ task: 'flood' }), bench.options());
        await waitForLine(first, /^flood of the console$/, bootTimeoutMs);
        await sleep(2_000);
        expect(await first.status(never)).toBe('running');
        const { size } = await stat(join(first.handle.runDir, 'console.log'));
        expect(size).toBeLessThan(CONSOLE_FILE_LIMIT_BYTES);
        expect((await first.consoleTail(10)).length).toBe(10);
        first.detach();
        await sleep(1_000);
        const second = await createDriver().adopt(first.handle, never);
        expect(await second.status(never)).toBe('running');
        expect((await second.consoleTail(10)).length).toBe(10);
        await second.kill();
        await nothingLeft();
      },
      TEST_MS,
    );

    it(
      'cannot send control characters to a terminal',
      async () => {
        const microvm = await createDriver().launch(bench.spec({ task: 'shout' }), bench.options());
        await waitForLine(microvm, TICK, bootTimeoutMs);
        const shown = (await microvm.consoleTail(200)).join('') + (await microvm.diagnose(never));
        expect(shown).toMatch(/a\\x1b\[2Jb/);
        // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
        expect(shown).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f]/);
        await microvm.kill();
      },
      TEST_MS,
    );
  });

  describe('a launch that fails', () =>
    describeFailedLaunches({ createDriver, bench: () => bench, nothingLeft, bootTimeoutMs }));
}
