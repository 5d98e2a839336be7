/** How fast a guest may be: held where its packets leave a link of its namespace, out of the VMM's hands. */
import { addTokenBucketFilter, type TcCommand } from '@wrenn/host';
import { GUEST_TAP_NAME, UPLINK_NAME } from './config.ts';
import type { SlotRates } from './slot.ts';

/** What may pass at once, and what may wait, as a part of a second's worth. */
const SHARE_OF_SECOND = 1 / 10;
/**
 * The largest packet that segmentation offload makes, 64 KiB, with the headers of the segments that it becomes:
 * in a smaller bucket it would have to be taken apart, and from a smaller queue it would be dropped.
 */
const SIZE_MIN_BYTES = 80 * 1024;
const SIZE_MAX_BYTES = 16 * 1024 * 1024;

/** To be run in the slot's namespace once its links are there. */
export function rateCommands({ receiveBytesPerSecond, transmitBytesPerSecond }: SlotRates): TcCommand[] {
  return [...limit(GUEST_TAP_NAME, receiveBytesPerSecond), ...limit(UPLINK_NAME, transmitBytesPerSecond)];
}

function limit(link: string, bytesPerSecond: number | undefined): TcCommand[] {
  if (bytesPerSecond === undefined) return [];
  const share = Math.ceil(bytesPerSecond * SHARE_OF_SECOND);
  const sizeBytes = Math.min(SIZE_MAX_BYTES, Math.max(SIZE_MIN_BYTES, share));
  return [addTokenBucketFilter(link, { bytesPerSecond, bucketBytes: sizeBytes, queueBytes: sizeBytes })];
}
