/**
 * Finds the compressed kernel inside of a bzImage. Debian ships that form; booting the ELF inside is
 * quicker (no unpacking in the guest) and the only form that Firecracker takes.
 *
 * Offsets are those of the Linux x86 boot protocol (Documentation/arch/x86/boot.rst), 2.08 and later.
 */
import { WrennError } from '@wrenn/protocol';

export type Compression = 'gzip' | 'xz' | 'zstd' | 'lz4';

export interface Payload {
  readonly compression: Compression;
  readonly data: Buffer;
  /** What the header says it unpacks to; the last four bytes of the payload. */
  readonly unpackedBytes: number;
}

const MAGICS: readonly (readonly [Compression, string])[] = [
  ['gzip', '1f8b08'],
  ['xz', 'fd377a585a00'],
  ['zstd', '28b52ffd'],
  ['lz4', '02214c18'],
];

/** Throws `invalid_argument` when the file is not a bzImage of a known kind. */
export function findPayload(image: Buffer): Payload {
  const refuse = (why: string) =>
    new WrennError('invalid_argument', `This is not a kernel that can be unpacked: ${why}.`);
  if (image.length < 0x260 || image.toString('latin1', 0x202, 0x206) !== 'HdrS')
    throw refuse('no boot header');
  if (image.readUInt16LE(0x206) < 0x0208) throw refuse('its boot protocol is older than 2.08');
  // Zero stands for four, for compatibility with the oldest boot loaders.
  const setupSectors = image.readUInt8(0x1f1) || 4;
  const start = (setupSectors + 1) * 512 + image.readUInt32LE(0x248);
  const end = start + image.readUInt32LE(0x24c);
  if (end > image.length || end - start < 8) throw refuse('its payload lies outside of the file');
  const payload = image.subarray(start, end);
  const found = MAGICS.find(([, magic]) => payload.subarray(0, magic.length / 2).toString('hex') === magic);
  if (found === undefined) throw refuse('its compression is unknown');
  return {
    compression: found[0],
    // gzip ends with that size by itself; behind the others it was appended.
    data: found[0] === 'gzip' ? payload : payload.subarray(0, -4),
    unpackedBytes: payload.readUInt32LE(payload.length - 4),
  };
}
