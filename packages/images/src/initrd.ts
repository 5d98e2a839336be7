/** An initrd of busybox, kernel modules and a script as /init. */
import { readdir, readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { type CpioEntry, writeCpio } from './cpio.ts';
import { BUSYBOX_PATH } from './sources.ts';

export interface InitrdContents {
  /** `lib/modules/<release>/kernel` of an unpacked kernel package. */
  readonly kernelDirectory: string;
  /** Below it, without `.ko`, each after what it needs. */
  readonly modules: readonly string[];
  /** Path of the script. It finds the modules as /modules/*.ko, in the order of their names. */
  readonly init: string;
}

export async function writeInitrd({ kernelDirectory, modules, init }: InitrdContents): Promise<Buffer> {
  const entries: CpioEntry[] = [
    { kind: 'directory', path: 'bin', mode: 0o755 },
    { kind: 'file', path: 'bin/busybox', mode: 0o755, data: await readFile(BUSYBOX_PATH) },
    { kind: 'directory', path: 'modules', mode: 0o755 },
    { kind: 'file', path: 'init', mode: 0o755, data: await readFile(init) },
  ];
  for (const [index, module] of modules.entries()) {
    const data = await readModule(kernelDirectory, module);
    const name = `${String(index).padStart(2, '0')}-${basename(module)}.ko`;
    if (data !== undefined) entries.push({ kind: 'file', path: `modules/${name}`, mode: 0o644, data });
  }
  return writeCpio(entries);
}

/** A module's bytes; undefined where the kernel has it built in. */
async function readModule(kernelDirectory: string, module: string): Promise<Buffer | undefined> {
  const path = join(kernelDirectory, `${module}.ko`);
  const directory: string[] = await readdir(dirname(path)).catch(() => []);
  return directory.includes(basename(path)) ? await readFile(path) : undefined;
}
