/**
 * The manifests beside every kernel, guest image and template. A directory counts as built only when
 * its manifest parses and every file in it has the size that the manifest states.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { hasErrno } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';

const fileSchema = z.strictObject({
  name: z.string().regex(/^[a-z0-9][a-z0-9.-]*$/),
  sizeBytes: z.number().int().nonnegative(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});
export type ManifestFile = z.infer<typeof fileSchema>;

const ID = z.string().regex(/^[a-z0-9][a-z0-9.+~-]{0,99}$/);

const common = {
  formatVersion: z.literal(1),
  id: ID,
  builtAt: z.iso.datetime(),
  files: z.array(fileSchema).min(1),
};

export const kernelManifestSchema = z.strictObject({
  ...common,
  kind: z.literal('kernel'),
  /** The kernel's own release, as `6.1.0-56-cloud-amd64`. */
  release: z.string(),
  /** The Debian package and its version. */
  source: z.string(),
  /** Hash of what the initrd was made from. */
  recipe: z.string(),
});
export type KernelManifest = z.infer<typeof kernelManifestSchema>;

export const guestManifestSchema = z.strictObject({
  ...common,
  kind: z.literal('guest'),
});
export type GuestManifest = z.infer<typeof guestManifestSchema>;

export const templateManifestSchema = z.strictObject({
  ...common,
  kind: z.literal('template'),
  name: ID,
  /** Hash of the recipe that it was built by; another recipe means another build. */
  recipe: z.string(),
  /** Every Debian package in it with its version, sorted. */
  packages: z.array(z.string()),
});
export type TemplateManifest = z.infer<typeof templateManifestSchema>;

export const labManifestSchema = z.strictObject({
  ...common,
  kind: z.literal('lab'),
  /** Hash of what it was made by. */
  recipe: z.string(),
  /** The kernel's package and its version. */
  kernel: z.string(),
});
export type LabManifest = z.infer<typeof labManifestSchema>;

/** The small file that points at the current build of something. */
export const pointerSchema = z.strictObject({ id: ID });

/** Reads a manifest or pointer; undefined when there is none. Throws `not_set_up` when it is not valid. */
export async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
  try {
    return schema.parse(JSON.parse(text));
  } catch (cause) {
    throw new WrennError('not_set_up', `${path} is not a valid manifest.`, {
      hint: `Remove ${path} and run: wrenn setup`,
      cause,
    });
  }
}

/** Reads `manifest.json` in a directory and checks its files' sizes; undefined when it is not whole. */
export async function readWhole<T extends { files: ManifestFile[] }>(
  directory: string,
  schema: z.ZodType<T>,
): Promise<T | undefined> {
  const manifest = await readJson(join(directory, 'manifest.json'), schema);
  if (manifest === undefined) return undefined;
  const isThere = await Promise.all(
    manifest.files.map(async ({ name, sizeBytes }) => {
      const found = await stat(join(directory, name)).catch(() => undefined);
      return found?.size === sizeBytes;
    }),
  );
  return isThere.includes(false) ? undefined : manifest;
}

/** What a manifest says of one file. */
export async function describeFile(directory: string, name: string): Promise<ManifestFile> {
  const path = join(directory, name);
  const { size } = await stat(path);
  return { name, sizeBytes: size, sha256: await sha256OfFile(path) };
}

export async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
