/** One call that makes everything there is to boot from; what is there already is skipped. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import { ensureGuestImage } from './guest-image.ts';
import { ensureKernel } from './kernel.ts';
import { layoutOf } from './layout.ts';
import type { OnProgress } from './progress.ts';
import { LOCK_NAME, removeLeftovers, withLock } from './publish.ts';
import type { TemplateName } from './recipes.ts';
import { ensureTemplate } from './template.ts';

export interface EnsureOptions {
  readonly wrennDir: string;
  readonly templates: readonly TemplateName[];
  readonly onProgress: OnProgress;
  readonly signal?: AbortSignal;
}

/** Idempotent and resumable; a second caller waits for the first. Needs root (`missing_privilege`). */
export async function ensureArtifacts(options: EnsureOptions): Promise<void> {
  const { wrennDir, onProgress, signal } = options;
  if (process.getuid?.() !== 0) {
    throw new WrennError('missing_privilege', `Building images in ${wrennDir} needs root.`, {
      hint: 'Run it again with sudo.',
    });
  }
  const layout = layoutOf(wrennDir);
  await mkdir(wrennDir, { recursive: true, mode: 0o755 });
  await mkdir(layout.cache, { recursive: true, mode: 0o755 });
  const onWait = (pid: number) =>
    onProgress({
      step: 'lock',
      state: 'progress',
      message: `waiting for the set-up with pid ${pid}`,
      elapsedMs: 0,
    });
  await withLock(join(wrennDir, LOCK_NAME), { signal, onWait }, async () => {
    for (const parent of [layout.kernels, layout.guests, layout.templates]) await removeLeftovers(parent);
    await ensureKernel(layout, onProgress, signal);
    await ensureGuestImage(layout, onProgress, signal);
    for (const name of options.templates) await ensureTemplate(layout, name, onProgress, signal);
  });
}
