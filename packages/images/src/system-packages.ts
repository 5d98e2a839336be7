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
  readonly newEnough?: NewEnough;
}

/** For programs of which some distributions in use have one that is too old. */
interface NewEnough {
  /** The oldest release that will do. */
  readonly release: string;
  /** What the program is asked, and how an answer looks that only an older one gives. */
  readonly ask: string;
  readonly isOld: (said: string) => boolean;
}

export const REQUIRED_PROGRAMS: readonly RequiredProgram[] = [
  { program: 'qemu-system-x86_64', debianPackage: 'qemu-system-x86' },
  { program: 'bwrap', debianPackage: 'bubblewrap' },
  { program: 'flock', debianPackage: 'util-linux' },
  { program: 'ip', debianPackage: 'iproute2' },
  { program: 'nft', debianPackage: 'nftables' },
  {
    program: 'mkfs.ext4',
    debianPackage: 'e2fsprogs',
    // For assume_storage_prezeroed.
    newEnough: {
      release: 'e2fsprogs 1.47',
      ask: '-V',
      isOld: (said) => {
        const [, major, minor] = /mke2fs (\d+)\.(\d+)/.exec(said) ?? [];
        return Number(major) < 1 || (Number(major) === 1 && Number(minor) < 47);
      },
    },
  },
  {
    program: 'mkfs.erofs',
    debianPackage: 'erofs-utils',
    // No option of it tells the version in all of them.
    newEnough: {
      release: 'erofs-utils 1.5',
      ask: '--help',
      isOld: (said) => said.includes('--all-root') && !said.includes('--preserve-mtime'),
    },
  },
  { program: 'mmdebstrap', debianPackage: 'mmdebstrap' },
  { program: '/usr/share/keyrings/debian-archive-keyring.gpg', debianPackage: 'debian-archive-keyring' },
  { program: '/bin/busybox', debianPackage: 'busybox-static' },
  { program: 'lz4', debianPackage: 'lz4' },
  { program: 'openssl', debianPackage: 'openssl' },
  { program: 'xz', debianPackage: 'xz-utils' },
  { program: 'zstd', debianPackage: 'zstd' },
];

const SEARCH_PATH = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];
const VERSION_TIMEOUT_MS = 10_000;
export const NEW_ENOUGH_HINT = 'Debian 12 and Ubuntu 24.04, or newer, have what Wrenn needs.';

/** What is not there. */
export async function missingSystemPackages(): Promise<RequiredProgram[]> {
  const found = await Promise.all(REQUIRED_PROGRAMS.map(({ program }) => isPresent(program)));
  return REQUIRED_PROGRAMS.filter((_, index) => !found[index]);
}

/** What is there and too old, each as a sentence. One that does not answer counts as new. */
export async function oldSystemPrograms(run: typeof runCommand = runCommand): Promise<string[]> {
  const old: string[] = [];
  for (const { program, newEnough } of REQUIRED_PROGRAMS) {
    if (newEnough === undefined) continue;
    const said = await run(program, [newEnough.ask], { timeoutMs: VERSION_TIMEOUT_MS }).catch(
      () => undefined,
    );
    if (said === undefined || !newEnough.isOld(`${said.stdout}${said.stderr}`)) continue;
    old.push(`${program} is too old: Wrenn needs that of ${newEnough.release}, or a newer one.`);
  }
  return old;
}

async function refuseOld(): Promise<void> {
  const old = await oldSystemPrograms();
  if (old.length > 0) throw new WrennError('missing_program', old.join(' '), { hint: NEW_ENOUGH_HINT });
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
 * with the command to run where neither works, or if the distribution has only programs that are too old.
 */
export async function ensureSystemPackages(options: {
  readonly onProgress: OnProgress;
  readonly signal?: AbortSignal;
}): Promise<void> {
  const step = startStep('system packages', 'QEMU, nftables and the like', options.onProgress);
  const missing = await missingSystemPackages();
  // Before anything is fetched: the distribution has no newer one.
  await refuseOld();
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
  await refuseOld();
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
