/** Decides what runs microVMs on this machine: Firecracker where it can, QEMU elsewhere. */
import { WrennError } from '@wrenn/protocol';
import type { DriverName, VmmDriver } from './driver.ts';
import { createFirecrackerDriver, type FirecrackerPrograms } from './firecracker/index.ts';
import { type KvmProbeOptions, type KvmVerdict, probeKvm, whyNotOpened } from './kvm-probe.ts';
import { createQemuDriver } from './qemu/index.ts';

export interface SelectOptions {
  readonly preference: DriverName | 'auto';
  readonly firecracker: FirecrackerPrograms;
  readonly probe: Omit<KvmProbeOptions, 'signal' | 'onWarning'>;
  /** As in QemuOptions. */
  readonly devicesDir?: string;
  readonly onWarning?: (message: string, cause: unknown) => void;
  readonly signal: AbortSignal;
}

export interface Selection {
  readonly driver: VmmDriver;
  readonly accelerator: 'kvm' | 'tcg';
  /** Of the VMM. */
  readonly version: string;
  /** In one line, for people. */
  readonly reason: string;
  readonly kvm: KvmVerdict;
}

/** Throws `driver_unavailable` or `missing_program` where the preference cannot be had, and `cancelled`. */
export async function selectDriver(options: SelectOptions): Promise<Selection> {
  const { preference, signal } = options;
  const warning = options.onWarning === undefined ? {} : { onWarning: options.onWarning };
  const kvm = await askKvm({ ...options.probe, ...warning, signal });

  if (preference !== 'qemu') {
    const firecracker = createFirecrackerDriver({ ...warning, ...options.firecracker });
    if (preference === 'firecracker' && !kvm.usable) {
      throw new WrennError('driver_unavailable', `Firecracker needs KVM. KVM: ${kvm.reason}.`, {
        hint: 'Set the driver to `qemu` or `auto`.',
        field: 'driver',
      });
    }
    const version = kvm.usable
      ? await versionOf(firecracker, preference === 'firecracker', signal)
      : undefined;
    if (version !== undefined) {
      const reason = `KVM: ${kvm.reason}; Firecracker ${version} ${
        preference === 'auto' ? 'was found' : 'was asked for'
      }`;
      return { driver: firecracker, accelerator: 'kvm', version, reason, kvm };
    }
  }

  const accelerator = kvm.usable ? 'kvm' : 'tcg';
  const { devicesDir } = options;
  const driver = createQemuDriver({
    accelerator,
    ...warning,
    ...(devicesDir === undefined ? {} : { devicesDir }),
  });
  const version = await driver.version(signal);
  const how = kvm.usable ? 'runs guests with it' : 'emulates the CPU (TCG)';
  return { driver, accelerator, version, reason: `KVM: ${kvm.reason}; QEMU ${version} ${how}`, kvm };
}

/** Without QEMU nothing can be tried, and Firecracker is the only choice: then the device has to do. */
async function askKvm(options: KvmProbeOptions): Promise<KvmVerdict> {
  try {
    return await probeKvm(options);
  } catch (error) {
    if (!(error instanceof WrennError) || error.code !== 'missing_program') throw error;
    const unopened = await whyNotOpened();
    return unopened === undefined
      ? { usable: true, reason: 'opens, but was not tried, since QEMU is not installed' }
      : { usable: false, reason: unopened };
  }
}

/** Undefined where it is not installed, or is one that the driver does not know, unless it is a must. */
async function versionOf(driver: VmmDriver, must: boolean, signal: AbortSignal): Promise<string | undefined> {
  try {
    return await driver.version(signal);
  } catch (error) {
    if (must || signal.aborted || !(error instanceof WrennError)) throw error;
    return undefined;
  }
}
