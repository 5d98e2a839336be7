/** Builds a template's root file system from Debian packages, without Docker, into one read-only image. */
import { createHash } from 'node:crypto';
import { chmod, chown, lstat, lutimes, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { plainEnvironment, runCommand } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { SUITE, sourceLines } from './debian.ts';
import { installDebian, KEPT, LEFT_OUT } from './debian-root.ts';
import { makeErofs, SOURCE_DATE_EPOCH } from './erofs.ts';
import type { Layout } from './layout.ts';
import {
  describeFile,
  pointerSchema,
  readJson,
  readWhole,
  type TemplateManifest,
  templateManifestSchema,
} from './manifest.ts';
import { type OnProgress, startStep } from './progress.ts';
import { pointAt, publish, requireSpace } from './publish.ts';
import { RECIPES, type Recipe, type TemplateName } from './recipes.ts';

const COMMAND_TIMEOUT_MS = 120_000;
export const ROOTFS_NAME = 'rootfs.erofs';

/** Raised when what `customise` does changes, so that templates are built anew. */
const CUSTOMISATION_VERSION = 1;

/** Makes sure that there is a template of this name, built by today's recipe. */
export async function ensureTemplate(
  layout: Layout,
  name: TemplateName,
  onProgress: OnProgress,
  signal?: AbortSignal,
): Promise<void> {
  const recipe = RECIPES[name];
  const step = startStep(`template ${name}`, recipe.title, onProgress);
  const hash = recipeHash(recipe);
  const current = await currentTemplate(layout, name);
  if (current?.recipe === hash) return step.skipped(`${current.id} is there`);

  await mkdir(layout.templates, { recursive: true, mode: 0o755 });
  await requireSpace(layout.templates, recipe.buildBytes, `Building the template ${name}`);
  const downloads = join(layout.cache, 'downloads', name);
  await mkdir(join(downloads, 'partial'), { recursive: true });
  const id = await publish(layout.templates, async (directory) => {
    const root = join(directory, 'root');
    await mkdir(join(directory, 'tmp'));
    await installDebian(root, {
      packages: recipe.packages,
      downloads,
      onProgress: (message) => step.progress(message),
      signal,
    });
    step.progress('settling accounts and configuration');
    await customise(root, signal);
    const packages = await listPackages(root, signal);
    await makeReproducible(root);
    step.progress('writing the image');
    await makeErofs(join(directory, ROOTFS_NAME), root, signal);
    await rm(root, { recursive: true });
    await rm(join(directory, 'tmp'), { recursive: true });

    const image = await describeFile(directory, ROOTFS_NAME);
    const manifest: TemplateManifest = {
      formatVersion: 1,
      kind: 'template',
      id: image.sha256.slice(0, 16),
      name,
      builtAt: new Date().toISOString(),
      recipe: hash,
      packages,
      files: [image],
    };
    await writeFile(join(directory, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
    return manifest.id;
  });
  await pointAt(layout.templateName(name), id);
  await rm(downloads, { recursive: true });
  step.done(id);
}

export async function currentTemplate(layout: Layout, name: string): Promise<TemplateManifest | undefined> {
  const pointer = await readJson(layout.templateName(name), pointerSchema);
  return pointer && (await readWhole(layout.template(pointer.id), templateManifestSchema));
}

function recipeHash(recipe: Recipe): string {
  const parts = [
    recipe.name,
    ...recipe.packages,
    SUITE,
    ...sourceLines({ signedBy: false }),
    ...LEFT_OUT,
    ...KEPT,
  ];
  return createHash('sha256')
    .update([CUSTOMISATION_VERSION, ...parts].join('\n'))
    .digest('hex');
}

/** The account that programs run as, names, and the environment of login shells. */
async function customise(root: string, signal?: AbortSignal): Promise<void> {
  const inRoot = (...command: string[]) =>
    runCommand('chroot', [root, ...command], {
      timeoutMs: COMMAND_TIMEOUT_MS,
      signal,
      env: { ...plainEnvironment(), SOURCE_DATE_EPOCH: String(SOURCE_DATE_EPOCH) },
    });
  const write = (path: string, text: string, mode = 0o644) => writeFile(join(root, path), text, { mode });

  await inRoot(
    'useradd',
    '--create-home',
    '--uid',
    '1000',
    '--user-group',
    '--groups',
    'sudo',
    '--shell',
    '/bin/bash',
    'user',
  );
  await write('etc/sudoers.d/user', 'user ALL=(ALL:ALL) NOPASSWD: ALL\n', 0o440);
  await write('etc/locale.gen', 'en_US.UTF-8 UTF-8\n');
  await inRoot('locale-gen');
  await write('etc/default/locale', 'LANG=C.UTF-8\n');
  await write('etc/environment', 'LANG=C.UTF-8\n');
  // Files that init writes in every guest; here only so that they exist.
  await write('etc/hostname', 'sandbox\n');
  await write('etc/hosts', '127.0.0.1 localhost\n');
  await rm(join(root, 'etc/resolv.conf'), { force: true });
  await write('etc/resolv.conf', '');
  await write('etc/machine-id', '');
  // pip refuses to install next to Debian's own packages unless told; a sandbox is thrown away anyway.
  await write('etc/pip.conf', '[global]\nbreak-system-packages = true\n');
  for (const directory of ['dev', 'proc', 'sys', 'run', 'tmp', 'code']) {
    await mkdir(join(root, directory), { recursive: true });
  }
  await chmod(join(root, 'tmp'), 0o1777);
  await chown(join(root, 'code'), 1000, 1000);
  const home = await stat(join(root, 'home/user'));
  if (home.uid !== 1000)
    throw new WrennError('internal', 'The home of the account `user` has another owner.');
}

async function listPackages(root: string, signal?: AbortSignal): Promise<string[]> {
  // The braces are dpkg-query's own fields, not a template of ours.
  const format = '--showformat=$' + '{Package} $' + '{Version}\n';
  const { stdout } = await runCommand(
    'dpkg-query',
    [`--admindir=${join(root, 'var/lib/dpkg')}`, '--show', format],
    {
      timeoutMs: COMMAND_TIMEOUT_MS,
      signal,
      maxOutputBytes: 4 * 1024 * 1024,
    },
  );
  return stdout.trim().split('\n').sort();
}

/** Takes out what differs from build to build: caches, logs, and times later than the fixed one. */
async function makeReproducible(root: string): Promise<void> {
  const empty = [
    'var/cache/apt',
    'var/cache/ldconfig',
    'var/cache/debconf',
    'var/lib/apt/lists',
    'var/log',
    'run',
    'tmp',
    'dev',
  ];
  for (const directory of empty) await emptyDirectory(join(root, directory));
  for (const file of [
    'etc/passwd-',
    'etc/group-',
    'etc/shadow-',
    'etc/gshadow-',
    'etc/subuid-',
    'etc/subgid-',
  ]) {
    await rm(join(root, file), { force: true });
  }
  for (const file of await readdir(join(root, 'var/lib/dpkg'))) {
    if (file.endsWith('-old')) await rm(join(root, 'var/lib/dpkg', file));
  }
  await mkdir(join(root, 'var/cache/apt/archives/partial'), { recursive: true });
  await mkdir(join(root, 'var/lib/apt/lists/partial'), { recursive: true });
  await clampTimes(root);
}

async function emptyDirectory(path: string): Promise<void> {
  for (const name of await readdir(path).catch(() => [])) {
    await rm(join(path, name), { recursive: true, force: true });
  }
}

async function clampTimes(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) await clampTimes(path);
    else await clampTime(path);
  }
  await clampTime(directory);
}

async function clampTime(path: string): Promise<void> {
  const { mtimeMs } = await lstat(path);
  if (mtimeMs > SOURCE_DATE_EPOCH * 1000) await lutimes(path, SOURCE_DATE_EPOCH, SOURCE_DATE_EPOCH);
}
