/** Takes templates away. Whether anybody uses one is the caller's business. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { syncDirectory } from '@wrenn/host';
import { layoutOf } from './layout.ts';
import { readJson, templateManifestSchema } from './manifest.ts';
import { LOCK_NAME, retract, withLock } from './publish.ts';
import { currentTemplate } from './template.ts';

/**
 * All builds of that name, the current one first: from then on it is not there, whatever happens. Not while a set-up
 * runs. Idempotent.
 */
export async function removeTemplate(wrennDir: string, name: string, signal?: AbortSignal): Promise<void> {
  const layout = layoutOf(wrennDir);
  await withLock(join(wrennDir, LOCK_NAME), { signal, onWait: () => {} }, async () => {
    const current = await currentTemplate(layout, name);
    if (current !== undefined) await retract(layout.templates, current.id);
    await rm(layout.templateName(name), { force: true });
    await syncDirectory(layout.templates);
    for (const entry of await readdir(layout.templates, { withFileTypes: true })) {
      if (!entry.isDirectory() || entry.name.startsWith('.')) continue;
      const file = join(layout.template(entry.name), 'manifest.json');
      // What cannot be read is nobody's to delete.
      const manifest = await readJson(file, templateManifestSchema).catch(() => undefined);
      if (manifest?.name === name) await retract(layout.templates, entry.name);
    }
  });
}
