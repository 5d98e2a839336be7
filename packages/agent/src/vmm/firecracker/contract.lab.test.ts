/** Firecracker on KVM: in the laboratory, with whatever Firecracker and jailer the run was given. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { describeDriverContract } from '../contract.ts';
import { createWorkbench, type Workbench } from '../testing/workbench.ts';
import { findBinary, findJailer } from './binary.ts';
import { createFirecrackerDriver } from './driver.ts';

const firecracker = await findBinary(process.env.WRENN_FIRECRACKER).catch(() => undefined);
const jailer = firecracker && (await findJailer(process.env.WRENN_JAILER, firecracker));

const NONE_GIVEN = 'no firecracker was given';

describeDriverContract('firecracker by itself', {
  createDriver: () => createFirecrackerDriver({ binary: firecracker ?? '', jailer: 'none' }),
  number: 12,
  cannotPowerOff: true,
  repeatsByte: true,
  bootTimeoutMs: 120_000,
  ...(firecracker === undefined ? { skippedBecause: NONE_GIVEN } : {}),
});

describeDriverContract('firecracker in its jail', {
  createDriver: () => createFirecrackerDriver({ binary: firecracker ?? '', jailer: jailer ?? '' }),
  number: 13,
  cannotPowerOff: true,
  repeatsByte: true,
  bootTimeoutMs: 120_000,
  keepsBoundingSet: true,
  ...(jailer === undefined ? { skippedBecause: 'no jailer was given' } : {}),
});

const HANGS = 'a Firecracker that hangs';

describe.skipIf(firecracker === undefined)(firecracker ? HANGS : `${HANGS} (skipped: ${NONE_GIVEN})`, () => {
  let bench: Workbench;
  beforeAll(async () => {
    bench = await createWorkbench(14);
  }, 60_000);
  afterAll(() => bench.dispose(), 60_000);

  it('is killed by its watchdog', async () => {
    const driver = createFirecrackerDriver({
      binary: firecracker ?? '',
      jailer: jailer ?? 'none',
      watchdog: { intervalMs: 500, misses: 2 },
    });
    const microvm = await driver.launch(bench.spec(), bench.options());
    process.kill(microvm.handle.pid, 'SIGSTOP');
    expect((await microvm.exited).message).toMatch(/killed by its watchdog/);
    expect(await bench.processes()).toEqual([]);
  }, 120_000);
});
