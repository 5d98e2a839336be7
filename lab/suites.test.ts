import { expect, it } from 'vitest';
import { parseSuite, testsCommand } from './suites.ts';

it('runs the contract of a driver with the tests of sandboxes, or the tests that are named', () => {
  const suite = parseSuite(['contract', 'firecracker']);
  expect(suite.command).toEqual(
    expect.arrayContaining([
      'vmm/firecracker/contract.lab',
      'tests/e2e/sandbox.vm',
      'tests/e2e/snapshots.vm',
    ]),
  );
  expect(suite).toMatchObject({ environment: { WRENN_LAB_DRIVER: 'firecracker' }, needsFirecracker: true });
  const one = parseSuite(['contract', 'qemu-kvm', 'tests/e2e/kills']);
  expect(one.command.at(-1)).toBe('tests/e2e/kills');
  expect(one).toMatchObject({ environment: { WRENN_LAB_DRIVER: 'qemu-kvm' }, needsFirecracker: false });
});

it('has the contract alone, which is skipped, where there is no Firecracker', () => {
  const { needsFirecracker, withoutFirecracker } = parseSuite(['contract', 'firecracker']);
  expect(needsFirecracker).toBe(true);
  // Not the tests of sandboxes: with QEMU they would pass, as if it were Firecracker.
  expect(withoutFirecracker).toEqual(testsCommand(['vmm/firecracker/contract.lab']));
  const named = parseSuite(['contract', 'firecracker', 'tests/e2e/sandbox']);
  expect(named.withoutFirecracker).toEqual(withoutFirecracker);
  expect(parseSuite(['bench', 'firecracker']).withoutFirecracker).toBeUndefined();
});

it('takes any program with its arguments as they are, and a shell for a person', () => {
  expect(parseSuite(['run', 'echo', '--report', '$HOME'])).toMatchObject({
    command: ['echo', '--report', '$HOME'],
    interactive: false,
  });
  expect(parseSuite(['shell'])).toMatchObject({ interactive: true });
});

it.each([
  [],
  ['contract'],
  ['contract', 'bhyve'],
  ['bench', 'qemu-kvm', 'x'],
  ['run'],
  ['shell', 'x'],
  ['x'],
])('refuses %j with its usage', (...words) => {
  expect(() => parseSuite(words)).toThrow(
    expect.objectContaining({
      code: 'invalid_argument',
      hint: expect.stringContaining('contract firecracker'),
    }),
  );
});
