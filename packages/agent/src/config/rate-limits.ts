/** How fast a sandbox may be: the names, units and bounds of what can be limited. */
import { z } from 'zod';

const KIB = 1024;
const GIB = 1024 ** 3;

/** Slower than the minimum, the agent's own talk with the guest would not get through in time. */
const BYTES = { min: 64 * KIB, max: 100 * GIB };
const OPERATIONS = { min: 10, max: 10_000_000 };

export const RATE_BOUNDS = {
  /** From the guest's point of view, Ethernet headers included. */
  networkReceiveBytesPerSecond: BYTES,
  networkTransmitBytesPerSecond: BYTES,
  /** Reads and writes together, of each drive. */
  diskBytesPerSecond: BYTES,
  diskOperationsPerSecond: OPERATIONS,
} as const;

export type RateName = keyof typeof RATE_BOUNDS;

export const RATE_NAMES = [
  'networkReceiveBytesPerSecond',
  'networkTransmitBytesPerSecond',
  'diskBytesPerSecond',
  'diskOperationsPerSecond',
] as const satisfies readonly RateName[];

/** What is absent is not limited. */
export type RateLimits = { readonly [name in RateName]?: number | undefined };

const rate = (name: RateName) => z.int().min(RATE_BOUNDS[name].min).max(RATE_BOUNDS[name].max).optional();

export const rateLimitsSchema = z.strictObject({
  networkReceiveBytesPerSecond: rate('networkReceiveBytesPerSecond'),
  networkTransmitBytesPerSecond: rate('networkTransmitBytesPerSecond'),
  diskBytesPerSecond: rate('diskBytesPerSecond'),
  diskOperationsPerSecond: rate('diskOperationsPerSecond'),
});
