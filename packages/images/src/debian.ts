/**
 * Where Debian packages come from: Debian 12 with its security updates, whatever distribution the host
 * is. apt is run with directories of our own, so that the host's package lists are never touched.
 */
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';

export const SUITE = 'bookworm';
const ARCHITECTURE = 'amd64';
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const DEFAULT_MIRROR = 'http://deb.debian.org';
const APT_TIMEOUT_MS = 300_000;
const SOURCES = 'sources.list';

/** The mirror's root, which has /debian and /debian-security below it: `WRENN_DEBIAN_MIRROR` or Debian's own. */
export function debianMirror(): string {
  const mirror = (process.env.WRENN_DEBIAN_MIRROR || DEFAULT_MIRROR).replace(/\/+$/, '');
  if (/^https?:\/\/[^\s[\]]+$/.test(mirror)) return mirror;
  throw new WrennError(
    'invalid_config',
    `WRENN_DEBIAN_MIRROR is not a mirror's address: ${mirror.slice(0, 100)}`,
    {
      hint: `Give the part before /debian, as in ${DEFAULT_MIRROR}`,
      field: 'WRENN_DEBIAN_MIRROR',
    },
  );
}

/** The lines of a sources.list, optionally with the keyring named in each. */
export function sourceLines(options: { readonly signedBy: boolean; readonly suite?: string }): string[] {
  const mirror = debianMirror();
  const { suite = SUITE } = options;
  const attributes = options.signedBy ? `[arch=${ARCHITECTURE} signed-by=${KEYRING}] ` : '';
  return [
    `deb ${attributes}${mirror}/debian ${suite} main`,
    `deb ${attributes}${mirror}/debian ${suite}-updates main`,
    `deb ${attributes}${mirror}/debian-security ${suite}-security main`,
  ];
}

export interface DebianArchive {
  /** Refreshes the package lists. */
  update(): Promise<void>;
  /** The package that a metapackage depends on first, as linux-image-cloud-amd64 on the kernel itself. */
  firstDependency(name: string): Promise<string>;
  /** The version that would be downloaded. */
  candidate(name: string): Promise<string>;
  /** Downloads and unpacks a package (its files alone; no script of it is run). */
  unpack(name: string, directory: string): Promise<void>;
}

/** Directories of our own for an apt, and nothing of the host's apt.conf that would choose other packages; its proxies stay. */
export function aptOptions(root: string): string[] {
  const settings: Record<string, string> = {
    'Dir::State': join(root, 'state'),
    'Dir::State::status': join(root, 'status'),
    'Dir::Cache': join(root, 'cache'),
    'Dir::Etc::sourcelist': join(root, SOURCES),
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::Etc::preferences': '/dev/null',
    'Dir::Etc::preferencesparts': '/dev/null',
    // A host's own release is none that is known here, which apt calls an error.
    'APT::Default-Release': '',
    'APT::Architecture': ARCHITECTURE,
    'APT::Architectures': ARCHITECTURE,
    'APT::Sandbox::User': 'root',
    // Without it an update without a network succeeds. An apt that is too old to know it ignores it.
    'APT::Update::Error-Mode': 'any',
    'Acquire::Languages': 'none',
    'Acquire::Retries': '3',
  };
  return Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
}

/** An apt of our own below `cacheDir`. */
export async function openArchive(cacheDir: string, signal?: AbortSignal): Promise<DebianArchive> {
  const root = join(cacheDir, 'apt');
  for (const directory of ['state/lists/partial', 'cache/archives/partial']) {
    await mkdir(join(root, directory), { recursive: true });
  }
  await writeFile(join(root, SOURCES), `${sourceLines({ signedBy: true }).join('\n')}\n`);
  await writeFile(join(root, 'status'), '');

  const options = aptOptions(root);
  const run = (program: string, args: string[], cwd?: string) =>
    runCommand(program, [...options, ...args], {
      timeoutMs: APT_TIMEOUT_MS,
      signal,
      maxOutputBytes: 4 * 1024 * 1024,
      ...(cwd === undefined ? {} : { cwd }),
    });

  const candidateOf = async (name: string): Promise<string> => {
    const { stdout } = await run('apt-cache', ['policy', name]);
    const version = /Candidate: (\S+)/.exec(stdout)?.[1];
    if (version !== undefined && version !== '(none)') return version;
    throw new WrennError('not_set_up', `Debian's package ${name} was not found at ${debianMirror()}.`);
  };

  return {
    async update() {
      await run('apt-get', ['-q', 'update']);
    },
    async firstDependency(name) {
      const { stdout } = await run('apt-cache', ['depends', '--no-recommends', '--no-suggests', name]);
      const dependency = /^\s*\|?Depends: ([a-z0-9][a-z0-9.+-]+)$/m.exec(stdout)?.[1];
      if (dependency === undefined) {
        throw new WrennError('not_set_up', `Debian's package ${name} was not found at ${debianMirror()}.`);
      }
      return dependency;
    },
    candidate: candidateOf,
    async unpack(name, directory) {
      // A directory of its own for each version: apt leaves a whole file there alone and fetches any other.
      const version = (await candidateOf(name)).replaceAll(/[^A-Za-z0-9.+~-]/g, '_');
      const downloads = join(root, 'downloads', `${name}_${version}`);
      await mkdir(downloads, { recursive: true });
      await run('apt-get', ['-q', 'download', name], downloads);
      const file = (await readdir(downloads)).find((found) => found.endsWith('.deb'));
      if (file === undefined)
        throw new WrennError('internal', `apt did not leave the package ${name} behind.`);
      await mkdir(directory, { recursive: true });
      await runCommand('dpkg-deb', ['-x', join(downloads, file), directory], {
        timeoutMs: APT_TIMEOUT_MS,
        signal,
      });
    },
  };
}
