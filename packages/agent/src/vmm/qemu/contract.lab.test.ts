/** QEMU on KVM: in the laboratory, where there is one. */
import { describeDriverContract } from '../contract.ts';
import { createQemuDriver } from './driver.ts';

describeDriverContract('qemu-kvm', {
  createDriver: () => createQemuDriver({ accelerator: 'kvm' }),
  number: 11,
  bootTimeoutMs: 120_000,
});
