/** Firecracker on KVM: in the laboratory, with whatever Firecracker and jailer the run was given. */
import { describeDriverContract } from '../contract.ts';
import { findBinary, findJailer } from './binary.ts';
import { createFirecrackerDriver } from './driver.ts';

const firecracker = await findBinary(process.env.WRENN_FIRECRACKER).catch(() => undefined);
const jailer = firecracker && (await findJailer(process.env.WRENN_JAILER, firecracker));

describeDriverContract('firecracker by itself', {
  createDriver: () => createFirecrackerDriver({ binary: firecracker ?? '', jailer: 'none' }),
  number: 12,
  cannotPowerOff: true,
  bootTimeoutMs: 120_000,
  ...(firecracker === undefined ? { skippedBecause: 'no firecracker was given' } : {}),
});

describeDriverContract('firecracker in its jail', {
  createDriver: () => createFirecrackerDriver({ binary: firecracker ?? '', jailer: jailer ?? '' }),
  number: 13,
  cannotPowerOff: true,
  bootTimeoutMs: 120_000,
  keepsBoundingSet: true,
  ...(jailer === undefined ? { skippedBecause: 'no jailer was given' } : {}),
});
