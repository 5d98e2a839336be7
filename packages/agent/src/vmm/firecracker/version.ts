/**
 * Which Firecracker runs, and what that one can do.
 */
import { WrennError } from '@wrenn/protocol';

export interface FirecrackerVersion {
  readonly major: number;
  readonly minor: number;
  readonly patch: number;
  /** As `1.16.1`, with the suffix of a development build. */
  readonly text: string;
}

/**
 * From 1.13 on the VMM itself adds `pci=off` to the command line, so one set of boot arguments fits all;
 * 1.8 brought the ACPI tables without which Debian's kernel finds no virtio device. A 2.0 may break the API.
 */
const OLDEST_VERSION = { major: 1, minor: 13 } as const;
const FIRST_UNSUPPORTED_MAJOR = 2;

/** Reads the first `v1.16.1` or `1.17.0-dev` in a short text; undefined if there is none. */
export function parseVersion(text: string): FirecrackerVersion | undefined {
  const match = /(?:^|[\s"v])(\d{1,4})\.(\d{1,4})\.(\d{1,4})([-+][0-9A-Za-z.+-]{1,40})?(?=$|[\s"])/.exec(
    text.slice(0, 1024),
  );
  if (match === null) return undefined;
  const [, major, minor, patch, suffix = ''] = match;
  return {
    major: Number(major),
    minor: Number(minor),
    patch: Number(patch),
    text: `${Number(major)}.${Number(minor)}.${Number(patch)}${suffix}`,
  };
}

function isAtLeast(version: FirecrackerVersion, major: number, minor: number): boolean {
  return version.major > major || (version.major === major && version.minor >= minor);
}

/** Throws `driver_unavailable` for a version that this driver was not written for. */
export function assertSupported(version: FirecrackerVersion): void {
  const { major, minor } = OLDEST_VERSION;
  if (isAtLeast(version, major, minor) && version.major < FIRST_UNSUPPORTED_MAJOR) return;
  throw new WrennError('driver_unavailable', `Firecracker ${version.text} is not supported.`, {
    hint: `Use Firecracker ${major}.${minor} or newer, below ${FIRST_UNSUPPORTED_MAJOR}.0; docs/firecracker.md says why.`,
  });
}

/** Guest output beyond a rate is dropped inside of the VMM, silently. */
export function hasSerialRateLimiter(version: FirecrackerVersion): boolean {
  return isAtLeast(version, 1, 16);
}
