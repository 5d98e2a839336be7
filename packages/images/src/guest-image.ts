/**
 * The guest image: envd compiled to one executable, the supervisor that is PID 1, and busybox. It is a
 * drive of its own, so that a change of envd does not rebuild the templates.
 */
import { createHash } from 'node:crypto';
import { chmod, copyFile, mkdir, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { runCommand } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { makeErofs, SOURCE_DATE_EPOCH } from './erofs.ts';
import type { Layout } from './layout.ts';
import {
  describeFile,
  type GuestManifest,
  guestManifestSchema,
  pointerSchema,
  readJson,
  readWhole,
} from './manifest.ts';
import { type OnProgress, startStep } from './progress.ts';
import { pointAt, publish, requireSpace } from './publish.ts';
import { BUSYBOX_PATH, initDirectory, repositoryRoot } from './sources.ts';

const COMPILE_TIMEOUT_MS = 180_000;
/** The program, a copy that the compiler makes, and the image. */
const BUILD_BYTES = 0.5 * 2 ** 30;
export const GUEST_IMAGE_NAME = 'guest.erofs';

/** Makes sure that there is a guest image made from today's sources. */
export async function ensureGuestImage(
  layout: Layout,
  onProgress: OnProgress,
  signal?: AbortSignal,
): Promise<void> {
  const step = startStep('guest', 'the guest agent and its supervisor', onProgress);
  const id = await sourcesHash();
  const current = await currentGuest(layout);
  if (current?.id === id) return step.skipped('up to date');

  await mkdir(layout.guests, { recursive: true, mode: 0o755 });
  await requireSpace(layout.guests, BUILD_BYTES, 'The guest image');
  await publish(layout.guests, async (directory) => {
    const tree = join(directory, 'tree');
    await mkdir(tree, { mode: 0o755 });
    step.progress('compiling envd');
    await compileEnvd(join(tree, 'envd'), signal);
    await copyFile(join(initDirectory(), 'supervisor.sh'), join(tree, 'supervisor.sh'));
    await copyFile(BUSYBOX_PATH, join(tree, 'busybox'));
    for (const name of ['envd', 'supervisor.sh', 'busybox']) {
      await chmod(join(tree, name), 0o755);
      await utimes(join(tree, name), SOURCE_DATE_EPOCH, SOURCE_DATE_EPOCH);
    }
    await utimes(tree, SOURCE_DATE_EPOCH, SOURCE_DATE_EPOCH);
    await makeErofs(join(directory, GUEST_IMAGE_NAME), tree, signal);
    await rm(tree, { recursive: true });
    const manifest: GuestManifest = {
      formatVersion: 1,
      kind: 'guest',
      id,
      builtAt: new Date().toISOString(),
      files: [await describeFile(directory, GUEST_IMAGE_NAME)],
    };
    await writeFile(join(directory, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
    return id;
  });
  await pointAt(layout.currentGuest, id);
  step.done(id);
}

export async function currentGuest(layout: Layout): Promise<GuestManifest | undefined> {
  const pointer = await readJson(layout.currentGuest, pointerSchema);
  return pointer && (await readWhole(layout.guest(pointer.id), guestManifestSchema));
}

/** Compiles envd with Bun into one executable. */
export async function compileEnvd(outputPath: string, signal?: AbortSignal): Promise<void> {
  const root = repositoryRoot();
  const entry = join(root, 'packages/guest/envd/src/main.ts');
  await runCommand(
    bunPath(),
    ['build', '--compile', '--minify', '--bytecode', entry, '--outfile', outputPath],
    {
      timeoutMs: COMPILE_TIMEOUT_MS,
      signal,
      cwd: root,
    },
  );
}

/** Bun for CPUs without AVX2 as well, from its npm package. */
function bunPath(): string {
  const require = createRequire(join(repositoryRoot(), 'package.json'));
  try {
    return require.resolve('@oven/bun-linux-x64-baseline/bin/bun');
  } catch (cause) {
    throw new WrennError('not_set_up', 'Bun, which compiles the guest agent, is not installed.', {
      hint: 'npm ci',
      cause,
    });
  }
}

/** Changes with everything that the image is made from. */
async function sourcesHash(): Promise<string> {
  const root = repositoryRoot();
  const hash = createHash('sha256');
  const directories = ['packages/guest/envd/src', 'packages/guest/init', 'packages/protocol/src'];
  for (const directory of directories) {
    const entries = await readdir(join(root, directory), { recursive: true, withFileTypes: true });
    const files = entries
      .filter((entry) => entry.isFile() && !/\.test\.ts$|\.md$/.test(entry.name))
      .map((entry) => join(entry.parentPath, entry.name))
      .sort();
    for (const file of files)
      hash
        .update(file.slice(root.length))
        .update('\0')
        .update(await readFile(file));
  }
  hash.update(await readFile(BUSYBOX_PATH)).update(await readFile(join(root, 'package-lock.json')));
  return hash.digest('hex').slice(0, 16);
}
