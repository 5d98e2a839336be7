/** The system programs that Wrenn needs, which Debian packages bring them, and getting them. */
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { installPackages } from './apt.ts';
import { type OnProgress, startStep } from './progress.ts';

export interface RequiredProgram {
  /** A program's name, or the absolute path of a file. */
  readonly program: string;
  readonly debianPackage: string;
}

export const REQUIRED_PROGRAMS: readonly RequiredProgram[] = [
  { program: 'qemu-system-x86_64', debianPackage: 'qemu-system-x86' },
  { program: 'bwrap', debianPackage: 'bubblewrap' },
  { program: 'flock', debianPackage: 'util-linux' },
  { program: 'ip', debianPackage: 'iproute2' },
  { program: 'nft', debianPackage: 'nftables' },
  { program: 'mkfs.ext4', debianPackage: 'e2fsprogs' },
  { program: 'mkfs.erofs', debianPackage: 'erofs-utils' },
  { program: 'mmdebstrap', debianPackage: 'mmdebstrap' },
  { program: '/usr/share/keyrings/debian-archive-keyring.gpg', debianPackage: 'debian-archive-keyring' },
  { program: '/bin/busybox', debianPackage: 'busybox-static' },
  { program: 'lz4', debianPackage: 'lz4' },
  { program: 'openssl', debianPackage: 'openssl' },
  { program: 'xz', debianPackage: 'xz-utils' },
  { program: 'zstd', debianPackage: 'zstd' },
];

const SEARCH_PATH = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];
/** What is not there. */
export async function missingSystemPackages(): Promise<RequiredProgram[]> {
  const found = await Promise.all(REQUIRED_PROGRAMS.map(({ program }) => isPresent(program)));
  return REQUIRED_PROGRAMS.filter((_, index) => !found[index]);
}

async function isPresent(program: string): Promise<boolean> {
  const candidates = program.startsWith('/')
    ? [program]
    : SEARCH_PATH.map((directory) => join(directory, program));
  for (const path of candidates) {
    const mode = program.endsWith('.gpg') ? constants.R_OK : constants.X_OK;
    if (
      await access(path, mode).then(
        () => true,
        () => false,
      )
    )
      return true;
  }
  return false;
}

/**
 * Installs what is missing by apt, as root or through sudo without a password. Throws `missing_program`
 * with the command to run where neither works.
 */
export async function ensureSystemPackages(options: {
  readonly onProgress: OnProgress;
  readonly signal?: AbortSignal;
}): Promise<void> {
  const step = startStep('system packages', 'QEMU, nftables and the like', options.onProgress);
  const missing = await missingSystemPackages();
  if (missing.length === 0) return step.skipped('all there');

  const names = [...new Set(missing.map(({ debianPackage }) => debianPackage))];
  const byHand = `sudo apt-get install --no-install-recommends ${names.join(' ')}`;
  if (!(await isPresent('apt-get'))) {
    throw new WrennError(
      'missing_program',
      `These programs are missing and there is no apt: ${list(missing)}.`,
      {
        hint: `Install them by your distribution's own means; on Debian they come with: ${byHand}`,
      },
    );
  }
  await installPackages({
    names,
    asRoot: await rootPrefix(byHand, options.signal),
    onProgress: step.progress,
    signal: options.signal,
  });
  const still = await missingSystemPackages();
  if (still.length > 0) {
    throw new WrennError('missing_program', `apt ran, but these are still missing: ${list(still)}.`, {
      hint: byHand,
    });
  }
  step.done(`installed ${names.join(', ')}`);
}

function list(programs: readonly RequiredProgram[]): string {
  return programs.map(({ program }) => program).join(', ');
}

async function rootPrefix(byHand: string, signal: AbortSignal | undefined): Promise<string[]> {
  if (process.getuid?.() === 0) return [];
  try {
    await runCommand('sudo', ['-n', 'true'], { timeoutMs: 10_000, signal });
    // It gives its own environment to what it runs.
    return ['sudo', '-n', 'DEBIAN_FRONTEND=noninteractive', 'LC_ALL=C.UTF-8'];
  } catch (cause) {
    throw new WrennError(
      'missing_privilege',
      'System packages are missing, and installing them needs root.',
      {
        hint: `Run this again as root, or run: ${byHand}`,
        cause,
      },
    );
  }
}
