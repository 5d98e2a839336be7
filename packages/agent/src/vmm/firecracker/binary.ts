/** Finding the Firecracker program, asking it for its version, and making the FIFOs that it writes to. */
import { constants } from 'node:fs';
import { access, lchown, realpath, stat } from 'node:fs/promises';
import { basename, delimiter, dirname, isAbsolute, join } from 'node:path';
import { runCommand } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { printable } from '../printable.ts';
import { type FirecrackerVersion, parseVersion } from './version.ts';

const TIMEOUT_MS = 5_000;

const INSTALL_HINT =
  'Unpack a release from https://github.com/firecracker-microvm/firecracker/releases and set WRENN_FIRECRACKER to the program; or use the QEMU driver.';

/** Which programs to start. */
export interface FirecrackerPrograms {
  /** Absolute path of Firecracker; absent is the first `firecracker` in PATH. */
  readonly binary?: string;
  /** Absolute path of the jailer, or `none`; absent is the one that is installed, if one is. */
  readonly jailer?: string;
}

/** `WRENN_FIRECRACKER` and `WRENN_JAILER`; an empty one counts as not set. */
export function firecrackerFromEnv(): FirecrackerPrograms {
  const { WRENN_FIRECRACKER: binary, WRENN_JAILER: jailer } = process.env;
  return { ...(binary && { binary }), ...(jailer && { jailer }) };
}

/** What would be started, in one line for people. Throws `missing_program` where there is none. */
export async function describeInstalled(programs: FirecrackerPrograms, signal: AbortSignal): Promise<string> {
  const firecracker = await findBinary(programs.binary);
  const jailer = await findJailer(programs.jailer, firecracker);
  const { text } = await askVersion(firecracker, signal);
  return `${text} at ${firecracker}, ${jailer === undefined ? 'without a jailer' : `in its jailer at ${jailer}`}`;
}

/** The program's real path: the configured one, or the first `firecracker` in PATH. */
export async function findBinary(configured: string | undefined): Promise<string> {
  if (configured !== undefined && configured !== '') {
    const found = isAbsolute(configured) ? await executable(configured) : undefined;
    if (found !== undefined) return found;
    throw new WrennError('missing_program', `${printable(configured)} is not an executable file.`, {
      hint: 'WRENN_FIRECRACKER must be the absolute path of the Firecracker program.',
      field: 'WRENN_FIRECRACKER',
    });
  }
  for (const directory of (process.env.PATH ?? '').split(delimiter)) {
    if (!isAbsolute(directory)) continue;
    const found = await executable(join(directory, 'firecracker'));
    if (found !== undefined) return found;
  }
  throw new WrennError('missing_program', 'Firecracker is not installed.', { hint: INSTALL_HINT });
}

/**
 * The jailer's real path: the configured one, or the one beside Firecracker, as releases have it, or in PATH.
 * Undefined where there is none, or it is not wanted (`none`).
 */
export async function findJailer(
  configured: string | undefined,
  firecracker: string,
): Promise<string | undefined> {
  if (configured === 'none') return undefined;
  if (configured !== undefined && configured !== '') {
    const found = isAbsolute(configured) ? await executable(configured) : undefined;
    if (found !== undefined) return found;
    throw new WrennError('missing_program', `${printable(configured)} is not an executable file.`, {
      hint: 'WRENN_JAILER must be the absolute path of the jailer, or `none`.',
      field: 'WRENN_JAILER',
    });
  }
  // A release has `firecracker-v1.16.1-x86_64` and `jailer-v1.16.1-x86_64`.
  const beside = join(dirname(firecracker), basename(firecracker).replace('firecracker', 'jailer'));
  const directories = (process.env.PATH ?? '').split(delimiter).filter(isAbsolute);
  for (const path of [beside, ...directories.map((directory) => join(directory, 'jailer'))]) {
    const found = path === firecracker ? undefined : await executable(path);
    if (found !== undefined) return found;
  }
  return undefined;
}

async function executable(path: string): Promise<string | undefined> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile() ? await realpath(path) : undefined;
  } catch {
    return undefined;
  }
}

export async function askVersion(program: string, signal: AbortSignal): Promise<FirecrackerVersion> {
  let said: string;
  try {
    said = (
      await runCommand(program, ['--version'], { timeoutMs: TIMEOUT_MS, maxOutputBytes: 64 * 1024, signal })
    ).stdout;
  } catch (error) {
    if (signal.aborted) throw WrennError.from(error);
    throw new WrennError('missing_program', `${printable(program)} could not be run.`, {
      hint: INSTALL_HINT,
      cause: error,
    });
  }
  const version = /^Firecracker v/.test(said) ? parseVersion(said) : undefined;
  if (version !== undefined) return version;
  throw new WrennError('missing_program', `${printable(program)} is not Firecracker.`, {
    hint: INSTALL_HINT,
  });
}

/** Makes FIFOs that only `owner` and root can open. Nothing of that user runs yet, so nothing can interfere. */
export async function makeFifos(
  paths: readonly string[],
  owner: { readonly uid: number; readonly gid: number },
  signal: AbortSignal,
): Promise<void> {
  try {
    await runCommand('mkfifo', ['-m', '0600', '--', ...paths], { timeoutMs: TIMEOUT_MS, signal });
    await Promise.all(paths.map((path) => lchown(path, owner.uid, owner.gid)));
  } catch (error) {
    if (signal.aborted) throw WrennError.from(error);
    throw new WrennError('command_failed', 'The FIFOs for the output of Firecracker could not be made.', {
      hint: "The sandbox's run directory must be writable for the agent, and mkfifo (coreutils) installed.",
      cause: error,
    });
  }
}
