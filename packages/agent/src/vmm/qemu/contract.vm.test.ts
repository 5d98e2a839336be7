import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeDriverContract } from '../contract.ts';
import { createWorkbench, type Workbench, waitForLine } from '../testing/workbench.ts';
import { createQemuDriver } from './driver.ts';

describeDriverContract('qemu', {
  createDriver: () => createQemuDriver({ accelerator: 'tcg' }),
  number: 1,
  bootTimeoutMs: 60_000,
});

const never = new AbortController().signal;
let bench: Workbench;
beforeAll(async () => {
  bench = await createWorkbench(2);
});
afterAll(() => bench.dispose());

it('tells a guest that shut down from one that fell over, also once adopted', async () => {
  const expected = {
    poweroff: 'The guest powered itself off.',
    reboot: 'The guest rebooted, or its kernel panicked.',
  };
  for (const task of ['poweroff', 'reboot'] as const) {
    const driver = createQemuDriver({ accelerator: 'tcg' });
    const first = await driver.launch(bench.spec({ task }), bench.options());
    // It ends soon, and must not before it is adopted.
    await first.pause(never);
    first.detach();
    const microvm = await driver.adopt(first.handle, never);
    await microvm.resume(never);
    expect((await microvm.exited).message).toBe(expected[task]);
    await microvm.kill();
  }
}, 150_000);

it('kills a QEMU that does not answer any more', async () => {
  const driver = createQemuDriver({ accelerator: 'tcg', watchdog: { intervalMs: 50, misses: 1 } });
  const microvm = await driver.launch(bench.spec(), bench.options());
  process.kill(microvm.handle.pid, 'SIGSTOP');
  expect((await microvm.exited).message).toMatch(/killed by its watchdog. QEMU did not answer query-status/);
  expect(await bench.processes()).toEqual([]);
}, 60_000);

it('does late, and one after the other, what was told to a QEMU that stood still', async () => {
  const microvm = await createQemuDriver({ accelerator: 'tcg' }).launch(bench.spec(), bench.options());
  try {
    process.kill(microvm.handle.pid, 'SIGSTOP');
    await expect(microvm.pause(AbortSignal.timeout(300))).rejects.toMatchObject({ code: 'cancelled' });
    await expect(microvm.resume(AbortSignal.timeout(300))).rejects.toMatchObject({ code: 'cancelled' });
    process.kill(microvm.handle.pid, 'SIGCONT');
    expect(await microvm.status(never)).toBe('running');
    process.kill(microvm.handle.pid, 'SIGSTOP');
    await expect(microvm.pause(AbortSignal.timeout(300))).rejects.toMatchObject({ code: 'cancelled' });
    process.kill(microvm.handle.pid, 'SIGCONT');
    expect(await microvm.status(never)).toBe('paused');
  } finally {
    await microvm.kill();
  }
}, 60_000);

it('gives each disk its name as serial number, and lets no file outgrow the layer', async () => {
  const microvm = await createQemuDriver({ accelerator: 'tcg' }).launch(bench.spec(), bench.options());
  try {
    await waitForLine(microvm, /^tick/, 60_000);
    const lines = await microvm.consoleTail(100);
    expect(lines.filter((line) => line.startsWith('disk '))).toEqual([
      'disk vda base 2048 ro=1',
      'disk vdb guest 4096 ro=1',
      'disk vdc layer 6144 ro=0',
    ]);
    expect(await readFile(`/proc/${microvm.handle.pid}/limits`, 'utf8')).toMatch(
      /^Max file size\s+3145728\s/m,
    );
  } finally {
    await microvm.kill();
  }
}, 90_000);
