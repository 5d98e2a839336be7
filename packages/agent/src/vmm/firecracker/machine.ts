/**
 * From Wrenn's description of a microVM to Firecracker's: what is refused before a process is started, and
 * the bodies that are sent. Pure.
 */
import { WrennError } from '@wrenn/protocol';
import type { DriveRateLimit, DriveSpec, MicrovmSpec, TokenBucket } from '../driver.ts';
import type {
  BootSource,
  Drive,
  EntropyDevice,
  MachineConfiguration,
  NetworkInterface,
  RateLimiter,
  RefilledBucket,
  SerialDevice,
} from './api-types.ts';
import { type FirecrackerVersion, hasSerialRateLimiter } from './version.ts';

export interface MachineOptions {
  readonly ioEngine: 'Sync' | 'Async';
}

/** `Sync`: the asynchronous engine is a developer preview, and needs io_uring, which many hosts turn off. */
export const DEFAULT_MACHINE_OPTIONS: MachineOptions = { ioEngine: 'Sync' };

export interface Machine {
  readonly machineConfig: MachineConfiguration;
  readonly bootSource: BootSource;
  readonly drives: readonly Drive[];
  readonly networkInterface: NetworkInterface;
  readonly entropy: EntropyDevice;
}

export const MAX_VCPUS = 32;
/** Firecracker's buffer for the command line. */
export const COMMAND_LINE_LIMIT_BYTES = 2048;
/** Kept free of it for what Firecracker appends: `pci=off` and 36 bytes for each device. */
const COMMAND_LINE_RESERVE_BYTES = 512;
/** With network and entropy it stays below the 17 virtio devices that x86 has interrupt lines for. */
export const MAX_DRIVES = 12;

/**
 * `reboot=k panic=1`: a guest that reboots or panics ends the VMM, which is how Wrenn learns of it.
 * `quiet`, since each byte of the kernel's log costs a VM exit; warnings still come.
 * The rest spares probes that cost VM exits: one serial port, no mouse, no multiplexer, no bounce buffers.
 */
const BOOT_ARGS: readonly string[] = [
  'console=ttyS0',
  'reboot=k',
  'panic=1',
  'quiet',
  '8250.nr_uarts=1',
  'i8042.noaux',
  'i8042.nomux',
  'i8042.dumbkbd',
  'swiotlb=noforce',
];

/** Drops console output beyond 64 KiB/s, after a first 256 KiB: a boot log fits, a flood does not. */
const SERIAL_LIMIT: SerialDevice = {
  rate_limiter: { size: 64 * 1024, refill_time: 1000, one_time_burst: 256 * 1024 },
};

/** What Firecracker or Linux would refuse later, or misread, is refused here with the field's name. */
export function describeMachine(spec: MicrovmSpec, options: MachineOptions): Machine {
  check('id', /^[A-Za-z0-9-]{1,64}$/.test(spec.id), 'must be 1 to 64 letters, digits or hyphens');
  check(
    'vcpus',
    Number.isInteger(spec.vcpus) && spec.vcpus >= 1 && spec.vcpus <= MAX_VCPUS,
    `must be a whole number from 1 to ${MAX_VCPUS} for Firecracker`,
  );
  check(
    'memoryMib',
    Number.isInteger(spec.memoryMib) && spec.memoryMib >= 1 && spec.memoryMib <= 16 * 1024 * 1024,
    'must be a whole number of MiB, at least 1',
  );
  checkPath('kernelPath', spec.kernelPath);
  checkPath('initrdPath', spec.initrdPath);
  check('drives', spec.drives.length <= MAX_DRIVES, `must be at most ${MAX_DRIVES}`);
  const ids = new Set(spec.drives.map((drive) => drive.id));
  check('drives', ids.size === spec.drives.length, 'must have different ids');
  const { tap, guestMac } = spec.network;
  check('network.tap', /^[A-Za-z0-9_.-]{1,15}$/.test(tap), 'must be the name of a network link');
  check(
    'network.guestMac',
    /^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(guestMac) && (Number.parseInt(guestMac, 16) & 1) === 0,
    'must be a unicast MAC address',
  );
  return {
    machineConfig: {
      vcpu_count: spec.vcpus,
      mem_size_mib: spec.memoryMib,
      smt: false,
      track_dirty_pages: false,
    },
    bootSource: {
      kernel_image_path: spec.kernelPath,
      initrd_path: spec.initrdPath,
      boot_args: bootArgs(spec.commandLine),
    },
    drives: spec.drives.map((drive) => describeDrive(drive, options)),
    networkInterface: {
      iface_id: 'eth0',
      host_dev_name: tap,
      guest_mac: guestMac,
    },
    entropy: {},
  };
}

/** Undefined where this Firecracker cannot limit the serial port; the FIFO bounds it all the same. */
export function serialLimit(version: FirecrackerVersion): SerialDevice | undefined {
  return hasSerialRateLimiter(version) ? SERIAL_LIMIT : undefined;
}

function describeDrive(drive: DriveSpec, options: MachineOptions): Drive {
  check('drives.id', /^[A-Za-z0-9_]{1,64}$/.test(drive.id), 'must be letters, digits or underscores');
  checkPath('drives.path', drive.path);
  return {
    drive_id: drive.id,
    path_on_host: drive.path,
    // An initrd finds the root by itself; a root device would make Firecracker append its own `root=`.
    is_root_device: false,
    is_read_only: drive.readOnly,
    // The guest's flushes are not passed on: a layer does not outlive the host's crash, a killed VMM it does.
    cache_type: 'Unsafe',
    io_engine: options.ioEngine,
    ...rateLimiter(drive.rateLimit),
  };
}

function rateLimiter({ bytes, operations }: DriveRateLimit = {}): { rate_limiter?: RateLimiter } {
  if (bytes === undefined && operations === undefined) return {};
  const bandwidth = bytes && { bandwidth: tokens(bytes) };
  return { rate_limiter: { ...bandwidth, ...(operations && { ops: tokens(operations) }) } };
}

/** Firecracker fills a bucket of this size in this time; a burst of at least a second's worth keeps it exact. */
function tokens({ perSecond, burst }: TokenBucket): RefilledBucket {
  return { size: burst, refill_time: Math.round((burst / perSecond) * 1000) };
}

function bootArgs(words: readonly string[]): string {
  for (const word of words) {
    check('commandLine', /^[\x21-\x7e]+$/.test(word), 'must be words of printable ASCII without blanks');
  }
  const line = [...BOOT_ARGS, ...words].join(' ');
  const limit = COMMAND_LINE_LIMIT_BYTES - COMMAND_LINE_RESERVE_BYTES;
  check('commandLine', line.length <= limit, `must be at most ${limit} bytes with the driver's own words`);
  return line;
}

function checkPath(field: string, path: string): void {
  const fine = path.startsWith('/') && !path.includes('\0') && Buffer.byteLength(path) < 4096;
  check(field, fine, 'must be an absolute path');
}

function check(field: string, fine: boolean, rule: string): asserts fine {
  if (fine) return;
  throw new WrennError('invalid_argument', `The microVM's ${field} ${rule}.`, { field });
}
