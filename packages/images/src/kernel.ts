/**
 * The guest's kernel and initrd: Debian's cloud kernel as an uncompressed ELF, and a small archive with
 * busybox, the modules that a guest needs to reach its drives, and init.sh.
 */
import { createHash } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { type Compression, findPayload } from './bzimage.ts';
import { openArchive } from './debian.ts';
import { writeInitrd } from './initrd.ts';
import type { Layout } from './layout.ts';
import {
  describeFile,
  type KernelManifest,
  kernelManifestSchema,
  pointerSchema,
  readJson,
  readWhole,
} from './manifest.ts';
import { type OnProgress, startStep } from './progress.ts';
import { pointAt, publish, requireSpace, syncFile } from './publish.ts';
import { BUSYBOX_PATH, initDirectory } from './sources.ts';

/** What it depends on first is the kernel's own package, by its release. */
export const METAPACKAGE = 'linux-image-cloud-amd64';
const UNPACK_TIMEOUT_MS = 120_000;
/** The package, its files and the kernel unpacked. */
const BUILD_BYTES = 0.4 * 2 ** 30;

const UNPACKERS: Readonly<Record<Compression, { readonly program: string; readonly suffix: string }>> = {
  gzip: { program: 'gzip', suffix: 'gz' },
  xz: { program: 'xz', suffix: 'xz' },
  zstd: { program: 'zstd', suffix: 'zst' },
  lz4: { program: 'lz4', suffix: 'lz4' },
};

/**
 * Loaded in this order, each after what it needs. virtio over MMIO is what both VMMs' small machines
 * have; ext4 is built in. Paths are below the modules directory's kernel/.
 */
const MODULES = [
  'drivers/virtio/virtio_ring',
  'drivers/virtio/virtio',
  'drivers/virtio/virtio_mmio',
  'drivers/block/virtio_blk',
  'net/core/failover',
  'drivers/net/net_failover',
  'drivers/net/virtio_net',
  'drivers/char/hw_random/rng-core',
  'drivers/char/hw_random/virtio-rng',
  'lib/libcrc32c',
  'fs/erofs/erofs',
  'fs/overlayfs/overlay',
] as const;

/** Makes sure that there is a kernel with an initrd made from today's sources. */
export async function ensureKernel(
  layout: Layout,
  onProgress: OnProgress,
  signal?: AbortSignal,
): Promise<void> {
  const step = startStep('kernel', "Debian's cloud kernel and the initrd", onProgress);
  const recipe = await recipeHash();
  const current = await currentKernel(layout);
  if (current?.recipe === recipe) return step.skipped(`${current.release} is there`);

  await requireSpace(layout.cache, BUILD_BYTES, 'The kernel');
  step.progress('asking which kernel is current');
  const archive = await openArchive(layout.cache, signal);
  await archive.update();
  const name = await archive.firstDependency(METAPACKAGE);
  const version = await archive.candidate(name);
  const release = name.replace(/^linux-image-/, '');

  const id = await publish(layout.kernels, async (directory) => {
    const unpacked = join(directory, 'unpacked');
    step.progress(`fetching ${name} ${version}`);
    await archive.unpack(name, unpacked);
    step.progress('unpacking the kernel');
    await extractElf(join(unpacked, 'boot', `vmlinuz-${release}`), join(directory, 'vmlinux'), signal);
    const initrd = await makeInitrd(join(unpacked, 'lib/modules', release, 'kernel'));
    await writeFile(join(directory, 'initrd'), initrd);
    await rm(unpacked, { recursive: true });

    const names = ['vmlinux', 'initrd'];
    for (const file of names) await syncFile(join(directory, file));
    const files = await Promise.all(names.map((file) => describeFile(directory, file)));
    const manifest: KernelManifest = {
      formatVersion: 1,
      kind: 'kernel',
      id: `${release}-${recipe.slice(0, 8)}`,
      builtAt: new Date().toISOString(),
      release,
      source: `${name} ${version}`,
      recipe,
      files,
    };
    await writeFile(join(directory, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
    return manifest.id;
  });
  await pointAt(layout.currentKernel, id);
  step.done(`${name} ${version}`);
}

export async function currentKernel(layout: Layout): Promise<KernelManifest | undefined> {
  const pointer = await readJson(layout.currentKernel, pointerSchema);
  return pointer && (await readWhole(layout.kernel(pointer.id), kernelManifestSchema));
}

/** Changes with everything that the initrd is made from but the kernel itself. */
async function recipeHash(): Promise<string> {
  const hash = createHash('sha256').update(MODULES.join('\n'));
  hash.update(await readFile(join(initDirectory(), 'init.sh')));
  hash.update(await readFile(BUSYBOX_PATH));
  return hash.digest('hex');
}

async function extractElf(bzImagePath: string, elfPath: string, signal?: AbortSignal): Promise<void> {
  const payload = findPayload(await readFile(bzImagePath));
  const { program, suffix } = UNPACKERS[payload.compression];
  const packed = `${elfPath}.${suffix}`;
  await writeFile(packed, payload.data);
  // lz4 writes to standard output unless it is told the name; the others leave out the suffix.
  const output = payload.compression === 'lz4' ? [elfPath] : [];
  await runCommand(program, ['-d', '-f', '-q', packed, ...output], { timeoutMs: UNPACK_TIMEOUT_MS, signal });
  await rm(packed, { force: true });
  const elf = await readFile(elfPath);
  if (elf.length !== payload.unpackedBytes || elf.toString('latin1', 1, 4) !== 'ELF') {
    throw new WrennError(
      'not_set_up',
      `The kernel in ${bzImagePath} did not unpack to an ELF file of the stated size.`,
    );
  }
}

async function makeInitrd(kernelDirectory: string): Promise<Buffer> {
  return writeInitrd({ kernelDirectory, modules: MODULES, init: join(initDirectory(), 'init.sh') });
}
