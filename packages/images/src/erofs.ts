/**
 * Read-only images. EROFS, because it keeps one time for each file, the modification time, and sorts
 * its directories: the same tree always gives the same bytes, which ext4 with its change times does not.
 */
import { runCommand } from '@wrenn/host';
import { syncFile } from './publish.ts';

const BUILD_TIMEOUT_MS = 600_000;

/** Part of every image: a random one would make each build differ. */
const IMAGE_UUID = '57726e6e-0000-4000-8000-000000000001';

/**
 * Times later than this (2025-01-01) are set to it, so that what the build itself writes does not carry
 * the hour of the build.
 */
export const SOURCE_DATE_EPOCH = 1735689600;

/**
 * Makes the image of a directory tree, uncompressed: guests read it through the host's page cache. What fits
 * one of the regular expressions `leftOut` (POSIX extended, on paths below the directory) is not in it.
 */
export async function makeErofs(
  imagePath: string,
  directory: string,
  signal?: AbortSignal,
  leftOut: readonly string[] = [],
): Promise<void> {
  const exclusions = leftOut.map((pattern) => `--exclude-regex=${pattern}`);
  const options = ['--quiet', '-U', IMAGE_UUID, '--preserve-mtime', ...exclusions];
  await runCommand('mkfs.erofs', [...options, imagePath, directory], {
    timeoutMs: BUILD_TIMEOUT_MS,
    signal,
    env: {
      PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
      LC_ALL: 'C.UTF-8',
      SOURCE_DATE_EPOCH: String(SOURCE_DATE_EPOCH),
    },
  });
  await syncFile(imagePath);
}
