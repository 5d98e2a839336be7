/** Finds what was built: the templates by name or build id, with the kernel and guest image to run them. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import { currentGuest, GUEST_IMAGE_NAME } from './guest-image.ts';
import { currentKernel } from './kernel.ts';
import { type Layout, layoutOf } from './layout.ts';
import { type ManifestFile, readWhole, type TemplateManifest, templateManifestSchema } from './manifest.ts';
import { currentTemplate, ROOTFS_NAME } from './template.ts';

export interface InstalledTemplate {
  readonly name: string;
  readonly buildId: string;
  readonly rootfsPath: string;
  readonly guestImagePath: string;
  readonly kernelPath: string;
  readonly initrdPath: string;
}

export interface TemplateSummary {
  readonly name: string;
  readonly buildId: string;
  readonly sizeBytes: number;
  readonly packages: number;
  readonly builtAt: string;
}

const SET_UP_HINT = 'Run: wrenn setup';
const NAME = /^[a-z0-9][a-z0-9-]{0,62}$/;

/** Throws `template_not_found` (the hint has the names there are) or `not_set_up`. */
export async function findTemplate(wrennDir: string, nameOrBuildId: string): Promise<InstalledTemplate> {
  const layout = layoutOf(wrennDir);
  const [boot, manifest] = await Promise.all([findBootFiles(wrennDir), findManifest(layout, nameOrBuildId)]);
  if (manifest === undefined) {
    const known = (await listTemplates(wrennDir)).map(({ name }) => name);
    if (known.length === 0)
      throw new WrennError('not_set_up', 'No template is built yet.', { hint: SET_UP_HINT });
    throw new WrennError(
      'template_not_found',
      `There is no template ${JSON.stringify(nameOrBuildId.slice(0, 64))}.`,
      {
        hint: `Known: ${known.join(', ')}`,
        field: 'template',
      },
    );
  }
  return {
    name: manifest.name,
    buildId: manifest.id,
    rootfsPath: join(layout.template(manifest.id), ROOTFS_NAME),
    ...boot,
  };
}

async function findManifest(layout: Layout, nameOrBuildId: string): Promise<TemplateManifest | undefined> {
  if (!NAME.test(nameOrBuildId)) return undefined;
  return (
    (await currentTemplate(layout, nameOrBuildId)) ??
    (await readWhole(layout.template(nameOrBuildId), templateManifestSchema))
  );
}

export interface BootFiles {
  readonly kernelPath: string;
  readonly initrdPath: string;
  readonly guestImagePath: string;
}

/** The kernel, initrd and guest image in use. Throws `not_set_up`. */
export async function findBootFiles(wrennDir: string): Promise<BootFiles> {
  const layout = layoutOf(wrennDir);
  const [kernel, guest] = await Promise.all([currentKernel(layout), currentGuest(layout)]);
  if (kernel === undefined)
    throw new WrennError('not_set_up', 'The guest kernel is not there.', { hint: SET_UP_HINT });
  if (guest === undefined)
    throw new WrennError('not_set_up', 'The guest image is not there.', { hint: SET_UP_HINT });
  return {
    kernelPath: join(layout.kernel(kernel.id), 'vmlinux'),
    initrdPath: join(layout.kernel(kernel.id), 'initrd'),
    guestImagePath: join(layout.guest(guest.id), GUEST_IMAGE_NAME),
  };
}

/** The current build of each template, by name. */
export async function listTemplates(wrennDir: string): Promise<TemplateSummary[]> {
  const layout = layoutOf(wrennDir);
  const entries = await readdir(layout.templates).catch(() => []);
  const names = entries
    .filter((entry) => entry.endsWith('.json'))
    .map((entry) => entry.slice(0, -'.json'.length));
  const manifests = await Promise.all(names.sort().map((name) => currentTemplate(layout, name)));
  return manifests.filter((manifest): manifest is TemplateManifest => manifest !== undefined).map(summarise);
}

function summarise(manifest: TemplateManifest): TemplateSummary {
  return {
    name: manifest.name,
    buildId: manifest.id,
    sizeBytes: manifest.files.reduce((sum: number, file: ManifestFile) => sum + file.sizeBytes, 0),
    packages: manifest.packages.length,
    builtAt: manifest.builtAt,
  };
}
