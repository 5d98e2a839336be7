import { describeDriverContract } from '../contract.ts';
import { createQemuDriver } from './driver.ts';

describeDriverContract('qemu', {
  createDriver: () => createQemuDriver({ accelerator: 'tcg' }),
  number: 1,
  bootTimeoutMs: 60_000,
});
