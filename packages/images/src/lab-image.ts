/**
 * The laboratory's machine (lab/): a Debian with what Wrenn needs of a host, a kernel with all of its
 * modules, an initrd that finds the root, and the QEMU that emulates it. It is for tests of what needs a KVM;
 * no sandbox starts from it.
 */
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { runCommand } from '@wrenn/host';
import { openArchive, SUITE } from './debian.ts';
import { type InstallOptions, installDebian } from './debian-root.ts';
import { makeErofs } from './erofs.ts';
import { writeInitrd } from './initrd.ts';
import { METAPACKAGE } from './kernel.ts';
import { type Layout, layoutOf } from './layout.ts';
import {
  describeFile,
  type LabManifest,
  labManifestSchema,
  pointerSchema,
  readJson,
  readWhole,
} from './manifest.ts';
import { type OnProgress, startStep } from './progress.ts';
import { pointAt, publish, removeLeftovers, requireSpace, syncFile, withLock } from './publish.ts';
import { BUSYBOX_PATH, labMachineDirectory } from './sources.ts';
import { REQUIRED_PROGRAMS } from './system-packages.ts';

const DEPMOD_TIMEOUT_MS = 120_000;
const BUILD_BYTES = 3 * 2 ** 30;
const VERSION = 1;

/**
 * The emulator is Debian 13's, whatever the host has: in QEMU 7.2, which is Debian 12's, now and then a guest of an
 * emulated KVM dies, hangs, or takes the machine along (docs/decisions/0012-laboratory.md).
 */
const EMULATOR_SUITE = 'trixie';
const EMULATOR = 'emulator';
const EMULATOR_PACKAGES = ['qemu-system-x86'];
/** Of a Debian, what a program finds its libraries and data with. */
const EMULATOR_PARTS = ['usr', 'etc'];

/** Node itself is not among them: Debian 12 has one that is too old. libstdc++ is for the one that is brought. */
const PACKAGES = [
  ...new Set(REQUIRED_PROGRAMS.map(({ debianPackage }) => debianPackage)),
  'cpio',
  'iputils-ping',
  'kmod',
  'libstdc++6',
  'procps',
].filter((name) => name !== 'mmdebstrap' && name !== 'debian-archive-keyring');

/** What the machine's root is found with: virtio over PCI, EROFS below, ext4 (built in) above. */
const INITRD_MODULES = [
  'drivers/virtio/virtio_ring',
  'drivers/virtio/virtio',
  'drivers/virtio/virtio_pci_legacy_dev',
  'drivers/virtio/virtio_pci_modern_dev',
  'drivers/virtio/virtio_pci',
  'drivers/block/virtio_blk',
  'lib/libcrc32c',
  'fs/erofs/erofs',
  'fs/overlayfs/overlay',
] as const;

export interface LabImage {
  readonly kernelPath: string;
  readonly initrdPath: string;
  /** EROFS. */
  readonly rootfsPath: string;
  /** A directory with the `usr` and `etc` that hold the emulator, which is not for the host's own libraries. */
  readonly emulatorPath: string;
}

/** Makes sure that there is a machine built by today's recipe; waits for another set-up. Needs root. */
export async function ensureLabImage(options: {
  readonly wrennDir: string;
  readonly onProgress: OnProgress;
  readonly signal?: AbortSignal;
}): Promise<LabImage> {
  const { wrennDir, onProgress, signal } = options;
  const layout = layoutOf(wrennDir);
  const step = startStep('lab', 'a Debian with KVM modules', onProgress);
  const recipe = await recipeHash();
  const onWait = (pid: number) => step.progress(`waiting for the set-up with pid ${pid}`);
  return await withLock(join(wrennDir, 'setup.lock'), { signal, onWait }, async () => {
    await removeLeftovers(layout.labs);
    const current = await currentLab(layout);
    if (current?.recipe === recipe) {
      step.skipped(`${current.id} is there`);
      return imageIn(layout, current.id);
    }
    await requireSpace(layout.cache, BUILD_BYTES, "The laboratory's machine");
    const id = await publish(layout.labs, (directory) =>
      build(layout, directory, recipe, step.progress, signal),
    );
    await pointAt(layout.currentLab, id);
    // A run under way may boot another machine from the one before.
    await removeOthers(layout, [id, ...(current === undefined ? [] : [current.id])]);
    step.done(id);
    return imageIn(layout, id);
  });
}

async function build(
  layout: Layout,
  directory: string,
  recipe: string,
  onProgress: (message: string) => void,
  signal: AbortSignal | undefined,
): Promise<string> {
  const root = join(directory, 'root');
  const unpacked = join(directory, 'kernel');
  const downloads = join(layout.cache, 'downloads/lab');
  await mkdir(join(directory, 'tmp'));
  await mkdir(join(downloads, 'partial'), { recursive: true });

  onProgress('fetching the kernel');
  const archive = await openArchive(layout.cache, signal);
  await archive.update();
  const name = await archive.firstDependency(METAPACKAGE);
  const version = await archive.candidate(name);
  const release = name.replace(/^linux-image-/, '');
  await archive.unpack(name, unpacked);
  await copyFile(join(unpacked, 'boot', `vmlinuz-${release}`), join(directory, 'vmlinuz'));
  const modules = join(unpacked, 'lib/modules');
  await writeFile(
    join(directory, 'initrd'),
    await writeInitrd({
      kernelDirectory: join(modules, release, 'kernel'),
      modules: INITRD_MODULES,
      init: join(labMachineDirectory(), 'initrd.sh'),
    }),
  );

  await installDebian(root, { packages: PACKAGES, downloads, onProgress, signal });
  await rename(modules, join(root, 'usr/lib/modules'));
  await runCommand('chroot', [root, 'depmod', release], { timeoutMs: DEPMOD_TIMEOUT_MS, signal });
  for (const path of ['var/cache/apt', 'var/lib/apt/lists', 'var/log', 'tmp']) {
    await rm(join(root, path), { recursive: true });
    await mkdir(join(root, path));
  }
  await writeFile(join(root, 'etc/hostname'), 'lab\n');
  await writeFile(join(root, 'etc/hosts'), '127.0.0.1 localhost lab\n');
  // Where its init finds what a run brings along.
  await mkdir(join(root, 'opt/kit'), { recursive: true });
  await mkdir(join(root, 'opt/wrenn'), { recursive: true });
  await installEmulator(directory, { downloads, onProgress, signal });
  onProgress('writing the image');
  await makeErofs(join(directory, 'root.erofs'), root, signal);
  for (const path of [root, unpacked, join(directory, 'tmp'), downloads]) await rm(path, { recursive: true });

  const names = ['vmlinuz', 'initrd', 'root.erofs'];
  for (const file of names) await syncFile(join(directory, file));
  const files = await Promise.all(names.map((file) => describeFile(directory, file)));
  const manifest: LabManifest = {
    formatVersion: 1,
    kind: 'lab',
    id: `${release}-${recipe.slice(0, 8)}`,
    builtAt: new Date().toISOString(),
    recipe,
    kernel: `${name} ${version}`,
    files,
  };
  await writeFile(join(directory, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  return manifest.id;
}

async function installEmulator(
  directory: string,
  options: Omit<InstallOptions, 'suite' | 'packages'>,
): Promise<void> {
  const whole = join(directory, 'emulator-root');
  await installDebian(whole, { suite: EMULATOR_SUITE, packages: EMULATOR_PACKAGES, ...options });
  await mkdir(join(directory, EMULATOR));
  for (const part of EMULATOR_PARTS) await rename(join(whole, part), join(directory, EMULATOR, part));
  await rm(whole, { recursive: true });
}

async function removeOthers(layout: Layout, ids: readonly string[]): Promise<void> {
  const kept = [...ids, basename(layout.currentLab)];
  for (const name of await readdir(layout.labs)) {
    if (!kept.includes(name)) await rm(join(layout.labs, name), { recursive: true, force: true });
  }
}

async function currentLab(layout: Layout): Promise<LabManifest | undefined> {
  const pointer = await readJson(layout.currentLab, pointerSchema);
  return pointer && (await readWhole(join(layout.labs, pointer.id), labManifestSchema));
}

function imageIn(layout: Layout, id: string): LabImage {
  const directory = join(layout.labs, id);
  return {
    kernelPath: join(directory, 'vmlinuz'),
    initrdPath: join(directory, 'initrd'),
    rootfsPath: join(directory, 'root.erofs'),
    emulatorPath: join(directory, EMULATOR),
  };
}

async function recipeHash(): Promise<string> {
  const hash = createHash('sha256').update(
    [VERSION, SUITE, ...PACKAGES, ...INITRD_MODULES, EMULATOR_SUITE, ...EMULATOR_PACKAGES].join('\n'),
  );
  hash.update(await readFile(join(labMachineDirectory(), 'initrd.sh')));
  hash.update(await readFile(BUSYBOX_PATH));
  return hash.digest('hex');
}
