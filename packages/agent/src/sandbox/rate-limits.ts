/** A sandbox's rate limits: checked, and what its network and its drives are told of them. */
import { WrennError } from '@wrenn/protocol';
import { RATE_BOUNDS, RATE_NAMES, type RateLimits } from '../config/rate-limits.ts';
import type { SlotRates } from '../network/slot.ts';
import type { DriveRateLimit, TokenBucket } from '../vmm/driver.ts';

/**
 * What may be read of an image at full speed before the limit holds. A boot reads 43 MiB of the guest image and
 * 3 MiB of the base, with 510 operations: without this a low limit would keep it from ever being up in time.
 */
const IMAGE_BURST_BYTES = 128 * 1024 * 1024;
const IMAGE_BURST_OPERATIONS = 4096;

/** What is absent has its default, and 0 no limit. Throws `invalid_argument`. */
export function checkRateLimits(asked: RateLimits = {}, defaults: RateLimits = {}): RateLimits {
  const checked: { -readonly [name in keyof RateLimits]: number } = {};
  for (const name of RATE_NAMES) {
    const value = asked[name] ?? defaults[name] ?? 0;
    if (value === 0) continue;
    const { min, max } = RATE_BOUNDS[name];
    if (!Number.isInteger(value) || value < min || value > max) {
      const unit = name === 'diskOperationsPerSecond' ? 'operations' : 'bytes';
      throw new WrennError(
        'invalid_argument',
        `A limit may be ${min} to ${max} ${unit} per second, not ${value}.`,
        {
          field: `rate_limits.${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`,
          hint: '0 is no limit; without a value the default holds.',
        },
      );
    }
    checked[name] = value;
  }
  return checked;
}

export function slotRates(limits: RateLimits): SlotRates {
  return {
    receiveBytesPerSecond: limits.networkReceiveBytesPerSecond,
    transmitBytesPerSecond: limits.networkTransmitBytesPerSecond,
  };
}

/** For each drive. A second's worth may go at once, and of an image what a boot needs. */
export function driveRateLimit(limits: RateLimits, kind: 'image' | 'layer'): DriveRateLimit {
  const bucket = (perSecond: number | undefined, imageBurst: number): TokenBucket | undefined =>
    perSecond === undefined
      ? undefined
      : { perSecond, burst: Math.max(perSecond, kind === 'image' ? imageBurst : 0) };
  return {
    bytes: bucket(limits.diskBytesPerSecond, IMAGE_BURST_BYTES),
    operations: bucket(limits.diskOperationsPerSecond, IMAGE_BURST_OPERATIONS),
  };
}
