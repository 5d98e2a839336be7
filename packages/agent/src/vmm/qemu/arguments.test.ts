import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MAX_DRIVES, type QemuSpec, qemuArguments, restoreArguments } from './arguments.ts';

const TCG = { accelerator: 'tcg', tscKhz: 2_445_400 } as const;

function spec(changes: Partial<QemuSpec> = {}): QemuSpec {
  return {
    id: 'abc',
    vcpus: 2,
    memoryMib: 256,
    kernelPath: '/k/vmlinux',
    initrdPath: '/k/initrd',
    commandLine: ['wrenn.hostname=box'],
    drives: [
      { id: 'base', path: '/t/base.img', readOnly: true },
      { id: 'layer', path: '/s/layer.img', readOnly: false },
    ],
    network: { netns: 'wr0', tap: 'tap0', guestMac: '02:00:00:00:00:01' },
    runDir: '/s/run',
    uid: 2000,
    gid: 2000,
    ...changes,
  };
}

/** The values of an option, in order. */
function valuesOf(args: readonly string[], option: string): string[] {
  return args.flatMap((arg, i) => (arg === option ? [args[i + 1] ?? ''] : []));
}

describe('the command line of QEMU', () => {
  it('is this for an emulated guest', () => {
    expect(qemuArguments(spec(), TCG)).toEqual([
      ...['-name', 'guest=abc'],
      '-machine',
      'microvm,x-option-roms=off,pic=off,pcie=off,usb=off,graphics=off,mem-merge=off,dump-guest-core=off,pit=off,acpi=on,rtc=on,isa-serial=on,auto-kernel-cmdline=off',
      ...[
        '-accel',
        'tcg,thread=multi,tb-size=128',
        '-cpu',
        'max,-svm,-la57,-erms',
        '-smp',
        '2',
        '-m',
        '256M',
      ],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-msg', 'timestamp=on'],
      ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny', '-S'],
      ...['-chardev', 'socket,id=qmp,path=/s/run/qmp.sock,server=on,wait=off'],
      ...['-mon', 'chardev=qmp,mode=control'],
      ...['-chardev', 'socket,id=console,path=/s/run/console.sock,server=on,wait=off'],
      ...['-serial', 'chardev:console'],
      '-blockdev',
      '{"node-name":"base","driver":"file","filename":"/t/base.img","read-only":true,"discard":"ignore","auto-read-only":false,"locking":"on","aio":"threads","cache":{"direct":false,"no-flush":true}}',
      '-device',
      '{"driver":"virtio-blk-device","id":"drive-base","drive":"base","serial":"base","werror":"report","rerror":"report"}',
      '-blockdev',
      '{"node-name":"layer","driver":"file","filename":"/s/layer.img","read-only":false,"discard":"unmap","auto-read-only":false,"locking":"on","aio":"threads","cache":{"direct":false,"no-flush":true}}',
      '-device',
      '{"driver":"virtio-blk-device","id":"drive-layer","drive":"layer","serial":"layer","werror":"report","rerror":"report"}',
      '-netdev',
      '{"type":"tap","id":"net0","ifname":"tap0","script":"no","downscript":"no","vhost":false}',
      '-device',
      '{"driver":"virtio-net-device","netdev":"net0","mac":"02:00:00:00:00:01"}',
      ...['-object', '{"qom-type":"rng-builtin","id":"entropy"}'],
      ...['-device', '{"driver":"virtio-rng-device","rng":"entropy"}'],
      ...['-kernel', '/k/vmlinux', '-initrd', '/k/initrd', '-append'],
      'console=ttyS0 reboot=t panic=-1 quiet tsc_early_khz=2445400 tsc=reliable mitigations=off wrenn.hostname=box',
    ]);
  });

  it('is the same for one that is restored, but for its memory and the state in place of a kernel', () => {
    const booted = qemuArguments(spec(), TCG);
    const restored = restoreArguments(spec(), TCG, { memoryPath: '/fds/4', stateFd: 5 });
    const same = booted.slice(0, booted.indexOf('-kernel'));
    same[3] += ',memory-backend=ram';
    expect(restored).toEqual([
      ...same,
      '-object',
      '{"qom-type":"memory-backend-file","id":"ram","mem-path":"/fds/4","size":268435456,"share":false}',
      ...['-global', 'migration.send-configuration=off', '-global', 'migration.announce-rounds=0'],
      ...['-incoming', 'fd:5'],
    ]);
    const deferred = restoreArguments(spec(), TCG, { memoryPath: '/fds/4', stateFd: undefined });
    expect(deferred).toEqual([...restored.slice(0, -1), 'defer']);
  });

  it('says nothing of the TSC to a guest with KVM, whose clock the host tells', () => {
    const args = qemuArguments(spec(), { accelerator: 'kvm', tscKhz: undefined });
    expect(valuesOf(args, '-append')[0]).not.toMatch(/tsc|mitigations/);
    expect(valuesOf(args, '-accel')).toEqual(['kvm']);
  });

  it('has the PIT where the frequency of the TSC is not known, since it must be calibrated then', () => {
    const args = qemuArguments(spec(), { accelerator: 'tcg', tscKhz: undefined });
    expect(valuesOf(args, '-machine')[0]).toMatch(/,pit=on,/);
    expect(valuesOf(args, '-append')[0]).not.toMatch(/tsc_early_khz/);
  });

  it('holds the drives that have one to their limit, each by itself', () => {
    const drives = [
      { id: 'base', path: '/t/base.img', readOnly: true },
      {
        id: 'guest',
        path: '/t/guest.img',
        readOnly: true,
        rateLimit: { operations: { perSecond: 100, burst: 5000 } },
      },
      {
        id: 'layer',
        path: '/s/layer.img',
        readOnly: false,
        rateLimit: { bytes: { perSecond: 2_000_000, burst: 3_000_000 }, operations: undefined },
      },
    ];
    const args = qemuArguments(spec({ drives }), TCG);
    const parsed = (option: string) => valuesOf(args, option).map((text): unknown => JSON.parse(text));
    expect(parsed('-object')).toMatchObject([
      {
        'qom-type': 'throttle-group',
        id: 'limit-guest',
        limits: { 'iops-total': 100, 'iops-total-max': 5000 },
      },
      {
        'qom-type': 'throttle-group',
        id: 'limit-layer',
        limits: { 'bps-total': 2_000_000, 'bps-total-max': 3_000_000 },
      },
      { 'qom-type': 'rng-builtin' },
    ]);
    expect(parsed('-blockdev')).toMatchObject([
      { driver: 'file', 'node-name': 'base', 'read-only': true },
      {
        driver: 'throttle',
        'node-name': 'guest',
        'throttle-group': 'limit-guest',
        'read-only': true,
        file: { driver: 'file', filename: '/t/guest.img', 'read-only': true },
      },
      {
        driver: 'throttle',
        'node-name': 'layer',
        // Both, or the guest's discards end at the filter.
        discard: 'unmap',
        file: { driver: 'file', filename: '/s/layer.img', discard: 'unmap' },
      },
    ]);
    expect(parsed('-device').slice(0, 3)).toMatchObject([
      { drive: 'base' },
      { drive: 'guest' },
      { drive: 'layer' },
    ]);
  });

  it('has no network where none is asked for', () => {
    const args = qemuArguments(spec({ network: undefined, drives: [] }), TCG);
    expect(valuesOf(args, '-netdev')).toEqual([]);
    expect(args.join(' ')).not.toMatch(/virtio-(net|blk)/);
  });

  it('lets no path become an option', () => {
    const path = fc.string({ unit: 'binary', maxLength: 40 }).map((text) => `/${text.replaceAll('\0', '')}`);
    fc.assert(
      fc.property(path, path, path, (kernelPath, drivePath, runDir) => {
        const drives = [{ id: 'base', path: drivePath, readOnly: true }];
        const args = qemuArguments(spec({ kernelPath, drives, runDir: runDir.slice(0, 20) }), TCG);
        expect(args).toHaveLength(qemuArguments(spec({ drives }), TCG).length);
        expect(valuesOf(args, '-kernel')).toContain(kernelPath);
        expect(JSON.parse(valuesOf(args, '-blockdev')[0] ?? '')).toMatchObject({ filename: drivePath });
        for (const chardev of valuesOf(args, '-chardev')) {
          // What is left without the doubled commas has exactly the options that were meant.
          expect(chardev.replaceAll(',,', '').split(',')).toHaveLength(5);
        }
      }),
      { numRuns: 50 },
    );
  });

  const refused: [string, Partial<QemuSpec>][] = [
    ['id', { id: 'a,b' }],
    ['id', { id: '-a' }],
    ['vcpus', { vcpus: 0 }],
    ['vcpus', { vcpus: 1.5 }],
    ['vcpus', { vcpus: 65 }],
    ['memoryMib', { memoryMib: 0 }],
    ['memoryMib', { memoryMib: Number.NaN }],
    ['kernelPath', { kernelPath: 'vmlinux' }],
    ['initrdPath', { initrdPath: '/a\0b' }],
    ['runDir', { runDir: `/${'x'.repeat(100)}` }],
    ['commandLine', { commandLine: ['a b'] }],
    ['commandLine', { commandLine: ['a\nb'] }],
    ['commandLine', { commandLine: ['x'.repeat(2048)] }],
    ['drives.id', { drives: [{ id: 'Base', path: '/x', readOnly: true }] }],
    ['drives.path', { drives: [{ id: 'base', path: 'x', readOnly: true }] }],
    ['drives', { drives: Array(2).fill({ id: 'base', path: '/x', readOnly: true }) }],
    [
      'drives',
      {
        drives: Array.from({ length: MAX_DRIVES + 1 }, (_, i) => ({
          id: `d${i}`,
          path: '/x',
          readOnly: true,
        })),
      },
    ],
    ['network.tap', { network: { netns: 'n', tap: 'a,b', guestMac: '02:00:00:00:00:01' } }],
    ['network.guestMac', { network: { netns: 'n', tap: 'tap0', guestMac: '03:00:00:00:00:01' } }],
    ['network.guestMac', { network: { netns: 'n', tap: 'tap0', guestMac: '02:00' } }],
  ];
  it.each(refused)('is refused for a wrong %s: %j', (field, changes) => {
    expect(() => qemuArguments(spec(changes), TCG)).toThrow(
      expect.objectContaining({ code: 'invalid_argument', field }),
    );
  });
});
