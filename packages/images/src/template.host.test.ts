import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { layoutOf, wrennDirFromEnv } from './layout.ts';
import type { ProgressEvent } from './progress.ts';
import { currentTemplate, ensureTemplate } from './template.ts';

const BUILD_TIMEOUT_MS = 600_000;

describe('building a template', { timeout: BUILD_TIMEOUT_MS }, () => {
  let wrennDir: string;
  beforeAll(() => {
    wrennDir = mkdtempSync(join(tmpdir(), 'wrenn-template-'));
  });
  afterAll(() => rmSync(wrennDir, { recursive: true, force: true }));

  const build = async () => {
    const events: ProgressEvent[] = [];
    await ensureTemplate(layoutOf(wrennDir), 'minimal', (event) => events.push(event));
    const manifest = await currentTemplate(layoutOf(wrennDir), 'minimal');
    if (manifest === undefined) throw new Error('nothing was built');
    return { states: events.map(({ state }) => state), manifest };
  };

  it('gives the same bytes for the same packages, and leaves nothing but the result', async () => {
    const first = await build();
    expect(first.states.at(-1)).toBe('done');
    const parent = join(wrennDir, 'templates');
    expect(readdirSync(parent).sort()).toEqual([first.manifest.id, 'minimal.json'].sort());

    const installed = await currentTemplate(layoutOf(wrennDirFromEnv()), 'minimal');
    // The installed one was built at another time, by itself; where it has other packages, build once more.
    if (installed !== undefined && String(installed.packages) === String(first.manifest.packages)) {
      expect(first.manifest.files).toEqual(installed.files);
    } else {
      rmSync(parent, { recursive: true });
      const second = await build();
      expect(second.manifest.files).toEqual(first.manifest.files);
    }
  });

  it('is skipped when the template is there', async () => {
    const again = await build();
    expect(again.states).toEqual(['started', 'skipped']);
    expect(existsSync(join(wrennDir, 'templates', again.manifest.id, 'rootfs.erofs'))).toBe(true);
  });

  it('is ended by its signal and then leaves nothing', async () => {
    const other = join(wrennDir, 'aborted');
    mkdirSync(other);
    const signal = AbortSignal.timeout(3_000);
    await expect(ensureTemplate(layoutOf(other), 'minimal', () => {}, signal)).rejects.toMatchObject({
      code: 'cancelled',
    });
    expect(readdirSync(join(other, 'templates'))).toEqual([]);
  });
});
