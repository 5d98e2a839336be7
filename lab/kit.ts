/** What a run brings along into the machine, as drives made for it. */
import { copyFile, cp, mkdir, readFile, realpath, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { makeExt4 } from '@wrenn/host';
import { findTemplate, makeErofs } from '@wrenn/images';

export interface KitContents {
  /** Where kernels and templates are. */
  readonly wrennDir: string;
  readonly template: string;
  /** Run in the checkout, without a shell. */
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  /** Put into the machine's /opt/kit/bin. */
  readonly programs: readonly string[];
}

/** Paths of the images. */
export interface Drives {
  readonly kit: string;
  readonly checkout: string;
  readonly scratch: string;
}

const SCRATCH_MIB = 16 * 1024;
const DIRECTORY_IN_MACHINE = '/opt/kit';

/** Where the machine finds the host's images: its WRENN_DIR. */
export const IMAGES_IN_MACHINE = `${DIRECTORY_IN_MACHINE}/images`;
export const PROGRAMS_IN_MACHINE = `${DIRECTORY_IN_MACHINE}/bin`;

/** Large, and of no use in the machine: history, compilers, linters, Bun. */
const LEFT_OUT = [
  '^\\.git($|/)',
  '^node_modules/(@biomejs|@oven|bun-types|typescript|knip|dependency-cruiser)($|/)',
  '^node_modules/@bufbuild/buf',
];

/** Makes the drives in a directory of the run's own. */
export async function makeDrives(
  directory: string,
  checkout: string,
  contents: KitContents,
  signal: AbortSignal,
): Promise<Drives> {
  const kit = join(directory, 'kit');
  await mkdir(join(kit, 'bin'), { recursive: true });
  await copyFile(join(checkout, 'lab/machine/init.sh'), join(kit, 'init.sh'));
  await writeFile(join(kit, 'command'), contents.command.map((word) => `${word}\0`).join(''));
  const settings = Object.entries(contents.environment).map(([name, value]) => `${name}=${value}\0`);
  await writeFile(join(kit, 'environment'), settings.join(''));
  await copyFile(await realpath(process.execPath), join(kit, 'bin/node'));
  for (const program of contents.programs) {
    await copyFile(await realpath(program), join(kit, 'bin', basename(program)));
  }
  await copyImages(contents.wrennDir, contents.template, join(kit, 'images'));

  const drives = {
    kit: join(directory, 'kit.erofs'),
    checkout: join(directory, 'checkout.erofs'),
    scratch: join(directory, 'scratch.ext4'),
  };
  await makeErofs(drives.kit, kit, signal);
  await makeErofs(drives.checkout, checkout, signal, LEFT_OUT);
  await makeExt4(drives.scratch, SCRATCH_MIB, { signal });
  return drives;
}

/** The current kernel and guest image and one template, so that they are found there as here. */
async function copyImages(wrennDir: string, template: string, target: string): Promise<void> {
  const found = await findTemplate(wrennDir, template);
  const directories = [found.kernelPath, found.guestImagePath, found.rootfsPath].map((path) => dirname(path));
  const pointers = ['kernels/current.json', 'guests/current.json', `templates/${template}.json`];
  for (const source of [...directories, ...pointers.map((name) => join(wrennDir, name))]) {
    const destination = join(target, relative(wrennDir, source));
    await mkdir(dirname(destination), { recursive: true });
    await cp(source, destination, { recursive: true });
  }
}

/** Whether there is a program, and no script that the machine might not run; for what users hand over. */
export async function isProgram(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined || !found.isFile() || (found.mode & 0o111) === 0) return false;
  return (await readFile(path)).toString('latin1', 1, 4) === 'ELF';
}
