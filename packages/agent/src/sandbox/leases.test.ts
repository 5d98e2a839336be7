import { WrennError } from '@wrenn/protocol';
import { expect, it, vi } from 'vitest';
import type { EnvdClient } from '../envd-client/client.ts';
import { createLeases } from './leases.ts';

const guest = {} as EnvdClient;
const asleep = new WrennError('cancelled', 'asleep');
const running = () => true;

it('are bounded, however often one is given back', () => {
  const leases = createLeases('s', 2);
  const [one] = [leases.lend(guest, running), leases.lend(guest, running)];
  expect(() => leases.lend(guest, running)).toThrow(expect.objectContaining({ code: 'too_many_streams' }));
  one.release();
  one.release();
  leases.lend(guest, running);
  expect(() => leases.lend(guest, running)).toThrow(expect.objectContaining({ code: 'too_many_streams' }));
});

it('end together; others follow after a sleep, and none once it is over', () => {
  const leases = createLeases('s', 9);
  const before = leases.lend(guest, running);
  leases.endAll(asleep);
  expect(before.signal.reason).toBe(asleep);
  const after = leases.lend(guest, running);
  expect(after.signal.aborted).toBe(false);
  leases.close(asleep);
  expect([after.signal.aborted, leases.lend(guest, running).signal.aborted]).toEqual([true, true]);
});

it('may be silent where their guest stands still, and a while after', () => {
  const leases = createLeases('s', 1);
  const { mayBeSilent } = leases.lend(guest, running);
  expect(mayBeSilent(10_000)).toBe(false);
  leases.setFrozen(true);
  expect(mayBeSilent(0)).toBe(true);
  leases.setFrozen(false);
  leases.thawed();
  expect([mayBeSilent(10_000), mayBeSilent(0)]).toEqual([true, false]);
});

it("may be silent for no longer than that, though the host's clock is set back", () => {
  const leases = createLeases('s', 1);
  const { mayBeSilent } = leases.lend(guest, running);
  leases.thawed();
  const clock = vi.spyOn(Date, 'now').mockReturnValue(0);
  try {
    expect(mayBeSilent(0)).toBe(false);
  } finally {
    clock.mockRestore();
  }
});
