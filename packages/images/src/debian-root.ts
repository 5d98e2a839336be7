/** A Debian root file system in a directory, by mmdebstrap: what templates and the laboratory are made from. */
import { dirname, join } from 'node:path';
import { plainEnvironment, runCommand } from '@wrenn/host';
import { SUITE, sourceLines } from './debian.ts';
import { SOURCE_DATE_EPOCH } from './erofs.ts';

const BOOTSTRAP_TIMEOUT_MS = 1_800_000;

/** Documentation and translations that no program needs; licences stay. */
export const LEFT_OUT = ['/usr/share/man/*', '/usr/share/doc/*', '/usr/share/info/*', '/usr/share/locale/*'];
export const KEPT = ['/usr/share/doc/*/copyright', '/usr/share/locale/locale.alias'];

/** For mmdebstrap, which runs it by a shell in its own mount namespace, with the tree as `$1`. */
const KEEP_DOWNLOADS =
  'mkdir -p "$1/var/cache/apt/archives" && mount --bind "$WRENN_DOWNLOADS" "$1/var/cache/apt/archives"';

export interface InstallOptions {
  /** Of another release than Debian 12. */
  readonly suite?: string;
  /** On top of the essential ones. */
  readonly packages: readonly string[];
  /** A directory with `partial` in it that keeps what an attempt fetched for the next one. */
  readonly downloads: string;
  readonly onProgress: (message: string) => void;
  readonly signal?: AbortSignal | undefined;
}

/** Installs Debian in the directory `root`, which is made. A directory `tmp` beside it is for what is temporary. */
export async function installDebian(root: string, options: InstallOptions): Promise<void> {
  const { suite = SUITE, packages, downloads, onProgress, signal } = options;
  onProgress(`installing ${packages.length} packages and what they need`);
  // In a mount namespace of its own: what mmdebstrap mounts in the tree is gone with it, however it ends.
  await runCommand(
    'unshare',
    [
      '--mount',
      '--',
      'mmdebstrap',
      '--mode=root',
      '--format=directory',
      '--variant=minbase',
      '--architectures=amd64',
      `--include=${packages.join(',')}`,
      // Downloads outlive an attempt that fails. Whatever mmdebstrap would do to remove them is left to us.
      `--setup-hook=${KEEP_DOWNLOADS}`,
      '--skip=essential/unlink,cleanup/apt',
      '--aptopt=APT::Install-Recommends "false"',
      '--aptopt=Acquire::Languages "none"',
      '--aptopt=Acquire::Retries "3"',
      ...LEFT_OUT.map((path) => `--dpkgopt=path-exclude=${path}`),
      ...KEPT.map((path) => `--dpkgopt=path-include=${path}`),
      suite,
      root,
      ...sourceLines({ signedBy: true, suite }),
    ],
    {
      timeoutMs: BOOTSTRAP_TIMEOUT_MS,
      signal,
      maxOutputBytes: 16 * 1024 * 1024,
      env: {
        ...plainEnvironment(),
        SOURCE_DATE_EPOCH: String(SOURCE_DATE_EPOCH),
        // Beside the tree, so that what it leaves there when it is killed goes with the rest.
        WRENN_DOWNLOADS: downloads,
        TMPDIR: join(dirname(root), 'tmp'),
      },
      onLine: (line) => {
        if (line.startsWith('I: ')) onProgress(line.slice(3));
      },
    },
  );
}
