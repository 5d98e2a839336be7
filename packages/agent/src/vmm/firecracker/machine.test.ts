import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { MicrovmSpec } from '../driver.ts';
import { createStrictApi } from './fixtures/strict-api.ts';
import {
  COMMAND_LINE_LIMIT_BYTES,
  DEFAULT_MACHINE_OPTIONS,
  describeMachine,
  serialLimit,
} from './machine.ts';

const SPEC: MicrovmSpec = {
  id: 'abcdefghij0123456789',
  vcpus: 2,
  memoryMib: 512,
  kernelPath: '/k/vmlinux',
  initrdPath: '/k/initrd',
  commandLine: ['wrenn.hostname=box', 'quiet'],
  drives: [
    { id: 'base', path: '/t/rootfs.img', readOnly: true },
    { id: 'guest', path: '/t/guest.img', readOnly: true },
    { id: 'layer', path: '/s/layer.img', readOnly: false },
  ],
  network: { netns: 'wr0', tap: 'tap0', guestMac: '02:00:00:00:00:01' },
  runDir: '/run/x',
  uid: 1,
  gid: 1,
};

describe('the description of a machine', () => {
  it('is what the API is sent', () => {
    const machine = describeMachine(SPEC, DEFAULT_MACHINE_OPTIONS);
    expect(machine.machineConfig).toEqual({
      vcpu_count: 2,
      mem_size_mib: 512,
      smt: false,
      track_dirty_pages: false,
    });
    expect(machine.bootSource.boot_args).toBe(
      'console=ttyS0 reboot=k panic=1 quiet 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce' +
        ' wrenn.hostname=box quiet',
    );
    expect(machine.drives.map((drive) => [drive.drive_id, drive.is_read_only, drive.is_root_device])).toEqual(
      [
        ['base', true, false],
        ['guest', true, false],
        ['layer', false, false],
      ],
    );
    expect(machine.entropy).toEqual({});
  });

  it('carries limits where there are some', () => {
    const limits = [
      { bytes: { perSecond: 1_000_000, burst: 3_000_000 } },
      { bytes: undefined },
      { bytes: { perSecond: 500, burst: 500 }, operations: { perSecond: 30, burst: 100 } },
    ];
    const drives = SPEC.drives.map((drive, index) => ({ ...drive, rateLimit: limits[index] }));
    const machine = describeMachine({ ...SPEC, drives }, { ioEngine: 'Async' });
    expect(machine.drives[0]).toMatchObject({
      io_engine: 'Async',
      rate_limiter: { bandwidth: { size: 3_000_000, refill_time: 3000 } },
    });
    expect(machine.drives[1]).not.toHaveProperty('rate_limiter');
    expect(machine.drives[2]?.rate_limiter).toEqual({
      bandwidth: { size: 500, refill_time: 1000 },
      ops: { size: 100, refill_time: 3333 },
    });
    const api = createStrictApi({ id: 'x', version: '1.16.1', openFiles: false });
    for (const drive of machine.drives) {
      const put = { method: 'PUT', path: `/drives/${drive.drive_id}`, body: JSON.stringify(drive) };
      expect(api.handle(put).status).toBe(204);
    }
  });

  it.each<[string, Partial<MicrovmSpec>]>([
    ['vcpus', { vcpus: 0 }],
    ['vcpus', { vcpus: 33 }],
    ['vcpus', { vcpus: 1.5 }],
    ['memoryMib', { memoryMib: 0 }],
    ['memoryMib', { memoryMib: Number.NaN }],
    ['id', { id: '' }],
    ['id', { id: 'a_b' }],
    ['id', { id: 'a'.repeat(65) }],
    ['kernelPath', { kernelPath: 'vmlinux' }],
    ['initrdPath', { initrdPath: '/a\0b' }],
    ['commandLine', { commandLine: ['a b'] }],
    ['commandLine', { commandLine: ['ü'] }],
    ['commandLine', { commandLine: ['x'.repeat(COMMAND_LINE_LIMIT_BYTES)] }],
    ['drives.id', { drives: [{ id: '../vm', path: '/x', readOnly: true }] }],
    ['drives.path', { drives: [{ id: 'a', path: '', readOnly: true }] }],
    [
      'drives',
      {
        drives: [
          { id: 'a', path: '/x', readOnly: true },
          { id: 'a', path: '/y', readOnly: true },
        ],
      },
    ],
    ['network.tap', { network: { ...SPEC.network, tap: 'a/b' } }],
    ['network.guestMac', { network: { ...SPEC.network, guestMac: '01:00:00:00:00:01' } }],
    ['network.guestMac', { network: { ...SPEC.network, guestMac: 'nonsense' } }],
  ])('is refused for a bad %s', (field, change) => {
    expect(() => describeMachine({ ...SPEC, ...change }, DEFAULT_MACHINE_OPTIONS)).toThrowError(
      expect.objectContaining({ code: 'invalid_argument', field }),
    );
  });

  it('never passes what the published API would refuse', () => {
    const mostly = <T>(good: fc.Arbitrary<T>, any: fc.Arbitrary<T>) =>
      fc.oneof({ weight: 30, arbitrary: good }, { weight: 1, arbitrary: any });
    const id = fc.stringMatching(/^[A-Za-z0-9]{1,20}$/);
    const text = fc.string({ unit: 'binary', maxLength: 30 });
    const spec = fc.record({
      id: mostly(id, text),
      vcpus: mostly(fc.integer({ min: 1, max: 32 }), fc.double()),
      memoryMib: mostly(fc.integer({ min: 1, max: 1_000_000 }), fc.double()),
      commandLine: fc.array(mostly(fc.stringMatching(/^[!-~]{1,60}$/), text), { maxLength: 30 }),
      drives: fc.uniqueArray(
        fc.record({
          id: mostly(id, text),
          path: mostly(
            text.map((name) => `/${name}`),
            text,
          ),
          readOnly: fc.boolean(),
        }),
        { maxLength: 4, selector: (drive) => drive.id },
      ),
    });
    let accepted = 0;
    fc.assert(
      fc.property(spec, (change) => {
        let machine: ReturnType<typeof describeMachine>;
        try {
          machine = describeMachine({ ...SPEC, ...change }, DEFAULT_MACHINE_OPTIONS);
        } catch {
          return;
        }
        accepted += 1;
        const api = createStrictApi({ id: 'x', version: '1.16.1', openFiles: false });
        const put = (path: string, body: unknown) =>
          api.handle({ method: 'PUT', path, body: JSON.stringify(body) }).status;
        expect(put('/machine-config', machine.machineConfig)).toBe(204);
        expect(put('/boot-source', machine.bootSource)).toBe(204);
        for (const drive of machine.drives) expect(put(`/drives/${drive.drive_id}`, drive)).toBe(204);
        expect(put('/network-interfaces/eth0', machine.networkInterface)).toBe(204);
        expect(put('/entropy', machine.entropy)).toBe(204);
      }),
      { numRuns: 500 },
    );
    expect(accepted).toBeGreaterThan(100);
  }, 60_000);

  it('limits the serial port where the version can', () => {
    const version = { major: 1, patch: 0, text: '' };
    expect(serialLimit({ ...version, minor: 15 })).toBeUndefined();
    expect(serialLimit({ ...version, minor: 16 })).toHaveProperty('rate_limiter.size');
  });
});
