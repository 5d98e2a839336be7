import { describe, expect, it } from 'vitest';
import type { SlotSpec } from '../network/slot.ts';
import type { MicrovmSpec } from '../vmm/driver.ts';
import { createSandboxManager } from './manager.ts';
import { checkRateLimits, driveRateLimit } from './rate-limits.ts';
import { createFakeWorld } from './testing/fake-world.ts';
import { never, request } from './testing/manager-harness.ts';

const MIB = 1024 * 1024;

describe('rate limits', () => {
  it('are what is asked for, else the default, and 0 is none', () => {
    const defaults = { networkReceiveBytesPerSecond: MIB, diskBytesPerSecond: 2 * MIB };
    expect(checkRateLimits()).toEqual({});
    expect(checkRateLimits({}, defaults)).toEqual(defaults);
    const asked = { networkReceiveBytesPerSecond: 0, diskBytesPerSecond: MIB, diskOperationsPerSecond: 10 };
    expect(checkRateLimits(asked, defaults)).toEqual({
      diskBytesPerSecond: MIB,
      diskOperationsPerSecond: 10,
    });
  });

  it.each([
    ['network_receive_bytes_per_second', { networkReceiveBytesPerSecond: 65_535 }],
    ['network_transmit_bytes_per_second', { networkTransmitBytesPerSecond: 2 ** 60 }],
    ['disk_bytes_per_second', { diskBytesPerSecond: -1 }],
    ['disk_bytes_per_second', { diskBytesPerSecond: 100_000.5 }],
    ['disk_operations_per_second', { diskOperationsPerSecond: 9 }],
    ['disk_operations_per_second', { diskOperationsPerSecond: Number.NaN }],
  ])('are refused for a wrong %s', (field, limits) => {
    expect(() => checkRateLimits(limits)).toThrow(
      expect.objectContaining({ code: 'invalid_argument', field: `rate_limits.${field}` }),
    );
  });

  it('never give a drive a bucket that is smaller than a second of it', () => {
    const limits = { diskBytesPerSecond: 1024 * MIB, diskOperationsPerSecond: 10 };
    expect(driveRateLimit(limits, 'layer')).toEqual({
      bytes: { perSecond: 1024 * MIB, burst: 1024 * MIB },
      operations: { perSecond: 10, burst: 10 },
    });
    const { bytes, operations } = driveRateLimit(limits, 'image');
    expect(bytes?.burst).toBe(1024 * MIB);
    expect(operations?.burst).toBeGreaterThan(1000);
    expect(driveRateLimit({}, 'image')).toEqual({});
  });

  it('reach the network and every drive, and are shown, by a later agent too', async () => {
    const world = createFakeWorld();
    const { network, bootMicrovm } = world.deps;
    const slots: SlotSpec[] = [];
    const machines: MicrovmSpec[] = [];
    const manager = createSandboxManager({
      ...world.deps,
      network: {
        ...network,
        setUp: (index, spec, signal) => {
          slots.push(spec);
          return network.setUp(index, spec, signal);
        },
      },
      bootMicrovm: (driver, spec, options) => {
        machines.push(spec);
        return bootMicrovm(driver, spec, options);
      },
    });
    await manager.start(never);
    const rateLimits = { networkTransmitBytesPerSecond: MIB, diskBytesPerSecond: 2 * MIB };
    const { id } = await manager.create({ ...request, rateLimits });
    expect(manager.get(id).rateLimits).toEqual(rateLimits);
    expect(slots).toMatchObject([{ rates: { transmitBytesPerSecond: MIB } }]);
    expect(machines[0]?.drives.map(({ rateLimit }) => rateLimit?.bytes?.perSecond)).toEqual(
      Array(3).fill(2 * MIB),
    );

    await manager.detach();
    const next = createSandboxManager(world.deps);
    await next.start(never);
    expect(next.get(id).rateLimits).toEqual(rateLimits);
    await next.destroy(id);
  });
});
