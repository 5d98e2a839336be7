/**
 * From Wrenn's description of a microVM to QEMU's command line. Pure. Whatever carries a name or a path is
 * passed as JSON or has its commas doubled, so that no value can become an option.
 */
import { join } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import type { DriveRateLimit, DriveSpec, MicrovmSpec } from '../driver.ts';

export type Accelerator = 'kvm' | 'tcg';

/** As the driver's spec; the boot probe has no network. */
export type QemuSpec = Omit<MicrovmSpec, 'network'> & {
  readonly network: MicrovmSpec['network'] | undefined;
};

export interface MachineOptions {
  readonly accelerator: Accelerator;
  /** Ticks of the host's time stamp counter in a millisecond; see host-tsc.ts. Only TCG guests need it. */
  readonly tscKhz: number | undefined;
}

export interface QemuFiles {
  readonly qmpSocket: string;
  readonly consoleSocket: string;
  readonly consoleLog: string;
  readonly vmmLog: string;
  /** There for a moment, while a snapshot is taken. */
  readonly state: string;
}

/** What a run directory holds; the logs stay for people after the VMM is gone. */
export function filesIn(runDir: string): QemuFiles {
  return {
    qmpSocket: join(runDir, 'qmp.sock'),
    consoleSocket: join(runDir, 'console.sock'),
    consoleLog: join(runDir, 'console.log'),
    vmmLog: join(runDir, 'vmm.log'),
    state: join(runDir, 'vmm.state'),
  };
}

const MEMORY_ID = 'ram';

export const MAX_VCPUS = 64;
/** `microvm` has at least eight virtio-mmio transports; network and entropy take one each. */
export const MAX_DRIVES = 6;
export const COMMAND_LINE_LIMIT_BYTES = 2047;
/** Longest path that sockaddr_un holds, without its final NUL. */
const SOCKET_PATH_LIMIT_BYTES = 107;
/** Translated code that QEMU keeps; when it is full it begins anew. QEMU's own default is 1 GiB. */
const TRANSLATION_BUFFER_MIB = 128;

/**
 * A guest that panics or reboots resets the machine, which `-no-reboot` makes the end of QEMU.
 * `quiet` because each byte of the kernel's log costs an emulated port write; warnings still come.
 */
const BOOT_WORDS: readonly string[] = ['console=ttyS0', 'reboot=t', 'panic=-1', 'quiet'];

/**
 * The machine has no timer but the local APIC's and tells so by ACPI, so the kernel knows time by the TSC
 * alone. If it failed to calibrate that (emulated, against the PIT, which goes wrong whenever the host takes
 * the CPU away for 0.2 ms), it would wait for ever for a first tick: README.md has the whole story. Told the
 * frequency, it needs no calibration. The TSC is the host's, so it is as reliable as that; and speculation
 * cannot leak from a CPU that does not speculate.
 */
function tcgWords(tscKhz: number | undefined): string[] {
  const words = ['tsc=reliable', 'mitigations=off'];
  return tscKhz === undefined ? words : [`tsc_early_khz=${tscKhz}`, ...words];
}

/** What a microVM that is restored begins with, as paths and descriptors that the VMM finds. */
export interface RestoreSource {
  readonly memoryPath: string;
  /** Undefined where it is told later, once the memory is what the state is of. */
  readonly stateFd: number | undefined;
}

/** What QEMU or Linux would refuse late, or misread, is refused here with the field's name. */
export function qemuArguments(spec: QemuSpec, options: MachineOptions): string[] {
  const { kernelPath, initrdPath } = spec;
  const boot = ['-kernel', kernelPath, '-initrd', initrdPath, '-append', commandLineOf(spec, options)];
  return [...machineArguments(spec, options, machine(options)), ...boot];
}

/**
 * The same machine with the memory and the state of another. Without a kernel: the guest has long read it. The state
 * is a stream of devices alone, without the names and sizes of the memory; so it has no configuration section.
 */
export function restoreArguments(spec: QemuSpec, options: MachineOptions, source: RestoreSource): string[] {
  const memory = {
    'qom-type': 'memory-backend-file',
    id: MEMORY_ID,
    'mem-path': source.memoryPath,
    size: spec.memoryMib * 1024 * 1024,
    share: false,
  };
  return [
    ...machineArguments(spec, options, `${machine(options)},memory-backend=${MEMORY_ID}`),
    ...json('-object', memory),
    ...['-global', 'migration.send-configuration=off'],
    // Nobody has to learn where the guest is now, and to tell would be the first thing that it does.
    ...['-global', 'migration.announce-rounds=0'],
    ...['-incoming', incomingUri(source.stateFd)],
  ];
}

/** How QEMU is told where a state is. */
export function incomingUri(stateFd: number | undefined): string {
  return stateFd === undefined ? 'defer' : `fd:${stateFd}`;
}

function commandLineOf({ commandLine }: QemuSpec, { accelerator, tscKhz }: MachineOptions): string {
  const words = [...BOOT_WORDS, ...(accelerator === 'tcg' ? tcgWords(tscKhz) : []), ...commandLine].join(' ');
  check('commandLine', words.length <= COMMAND_LINE_LIMIT_BYTES, `is over ${COMMAND_LINE_LIMIT_BYTES} bytes`);
  return words;
}

function machineArguments(spec: QemuSpec, { accelerator }: MachineOptions, machineWords: string): string[] {
  checkSpec(spec);
  const files = filesIn(spec.runDir);
  return [
    ['-name', `guest=${spec.id}`],
    ['-machine', machineWords],
    accelerator === 'kvm'
      ? ['-accel', 'kvm', '-cpu', 'host']
      : ['-accel', `tcg,thread=multi,tb-size=${TRANSLATION_BUFFER_MIB}`, '-cpu', 'max,-svm,-la57,-erms'],
    ['-smp', String(spec.vcpus), '-m', `${spec.memoryMib}M`],
    ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-msg', 'timestamp=on'],
    ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    // The CPUs wait for `cont`: no guest code runs before the run directory is out of the VMM's hands.
    ['-S'],
    socket('qmp', files.qmpSocket),
    ['-mon', 'chardev=qmp,mode=control'],
    // Without a reader QEMU drops what the guest prints; with a slow one the guest's UART waits.
    socket('console', files.consoleSocket),
    ['-serial', 'chardev:console'],
    ...devices(spec),
  ].flat();
}

/** No option ROMs, no PCI, no ISA timer or interrupt controller: nothing that the guest does without. */
function machine({ accelerator, tscKhz }: MachineOptions): string {
  // Where the frequency is not known, calibration is the only hope, and it needs the PIT.
  const pit = accelerator === 'tcg' && tscKhz === undefined ? 'on' : 'off';
  const off = ['x-option-roms', 'pic', 'pcie', 'usb', 'graphics', 'mem-merge', 'dump-guest-core'];
  return [
    'microvm',
    ...off.map((name) => `${name}=off`),
    `pit=${pit}`,
    'acpi=on',
    'rtc=on',
    'isa-serial=on',
    // The devices are in the ACPI tables.
    'auto-kernel-cmdline=off',
  ].join(',');
}

function socket(id: string, path: string): string[] {
  return ['-chardev', `socket,id=${id},path=${path.replaceAll(',', ',,')},server=on,wait=off`];
}

function devices(spec: QemuSpec): string[][] {
  // No word of buses: QEMU hands out its virtio-mmio transports from the last one down and lists them in the
  // same order in the ACPI tables, so the first drive is /dev/vda. The first transport would not do: its
  // interrupt is pin 0 of the second I/O APIC, which Linux never sees.
  const all: string[][] = spec.drives.map(driveArguments);
  if (spec.network !== undefined) {
    const { tap, guestMac } = spec.network;
    all.push(
      json('-netdev', { type: 'tap', id: 'net0', ifname: tap, script: 'no', downscript: 'no', vhost: false }),
      json('-device', { driver: 'virtio-net-device', netdev: 'net0', mac: guestMac }),
    );
  }
  all.push(
    json('-object', { 'qom-type': 'rng-builtin', id: 'entropy' }),
    json('-device', { driver: 'virtio-rng-device', rng: 'entropy' }),
  );
  return all;
}

function driveArguments(drive: DriveSpec): string[] {
  const access = { 'read-only': drive.readOnly, discard: drive.readOnly ? 'ignore' : 'unmap' };
  const file = {
    driver: 'file',
    filename: drive.path,
    ...access,
    'auto-read-only': false,
    // A second writer, in whatever process, is refused.
    locking: 'on',
    aio: 'threads',
    // The guest's flushes are not passed on: a layer survives the VMM, and is given up with the host.
    cache: { direct: false, 'no-flush': true },
  };
  const name = { 'node-name': drive.id };
  const group = `limit-${drive.id}`;
  const limits = throttleLimits(drive.rateLimit);
  return [
    ...(limits === undefined
      ? json('-blockdev', { ...name, ...file })
      : [
          ...json('-object', { 'qom-type': 'throttle-group', id: group, limits }),
          ...json('-blockdev', { ...name, driver: 'throttle', 'throttle-group': group, ...access, file }),
        ]),
    ...json('-device', {
      driver: 'virtio-blk-device',
      id: `drive-${drive.id}`,
      drive: drive.id,
      serial: drive.id,
      // A full host disk is an I/O error in the guest, not a guest that stands still and nobody resumes.
      werror: 'report',
      rerror: 'report',
    }),
  ];
}

/** `-max` is the size of the bucket, as long as it is for one second, which is the default. */
function throttleLimits({ bytes, operations }: DriveRateLimit = {}): Record<string, number> | undefined {
  if (bytes === undefined && operations === undefined) return undefined;
  return {
    ...(bytes && { 'bps-total': bytes.perSecond, 'bps-total-max': bytes.burst }),
    ...(operations && { 'iops-total': operations.perSecond, 'iops-total-max': operations.burst }),
  };
}

function json(option: string, value: Readonly<Record<string, unknown>>): string[] {
  return [option, JSON.stringify(value)];
}

function checkSpec(spec: QemuSpec): void {
  check('id', /^[A-Za-z0-9][A-Za-z0-9-]{0,63}$/.test(spec.id), 'must be 1 to 64 letters, digits or hyphens');
  const { vcpus, memoryMib, drives, network } = spec;
  check(
    'vcpus',
    Number.isInteger(vcpus) && vcpus >= 1 && vcpus <= MAX_VCPUS,
    `must be a whole number from 1 to ${MAX_VCPUS}`,
  );
  check(
    'memoryMib',
    Number.isInteger(memoryMib) && memoryMib >= 1 && memoryMib <= 16 * 1024 * 1024,
    'must be a whole number of MiB, at least 1',
  );
  checkPath('kernelPath', spec.kernelPath);
  checkPath('initrdPath', spec.initrdPath);
  checkPath('runDir', spec.runDir);
  const { consoleSocket } = filesIn(spec.runDir);
  check(
    'runDir',
    Buffer.byteLength(consoleSocket) <= SOCKET_PATH_LIMIT_BYTES,
    'is too long for a socket in it',
  );
  check('drives', drives.length <= MAX_DRIVES, `must be at most ${MAX_DRIVES}`);
  check('drives', new Set(drives.map(({ id }) => id)).size === drives.length, 'must have different ids');
  for (const drive of drives) {
    // The id is the disk's serial too, of which virtio knows 20 characters.
    check('drives.id', /^[a-z][a-z0-9_]{0,19}$/.test(drive.id), 'must be 1 to 20 small letters or digits');
    checkPath('drives.path', drive.path);
  }
  if (network !== undefined) {
    check('network.tap', /^[A-Za-z0-9_.-]{1,15}$/.test(network.tap), 'must be the name of a network link');
    check(
      'network.guestMac',
      /^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(network.guestMac) &&
        (Number.parseInt(network.guestMac, 16) & 1) === 0,
      'must be a unicast MAC address',
    );
  }
  for (const word of spec.commandLine) {
    check('commandLine', /^[\x21-\x7e]+$/.test(word), 'must be words of printable ASCII without blanks');
  }
}

function checkPath(field: string, path: string): void {
  const fine = path.startsWith('/') && !path.includes('\0') && Buffer.byteLength(path) < 4096;
  check(field, fine, 'must be an absolute path');
}

function check(field: string, fine: boolean, rule: string): void {
  if (!fine) throw new WrennError('invalid_argument', `The microVM's ${field} ${rule}.`, { field });
}
