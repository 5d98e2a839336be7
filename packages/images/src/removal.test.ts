import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { findTemplate, listTemplates } from './catalog.ts';
import { removeLeftovers } from './publish.ts';
import { removeTemplate } from './removal.ts';

let dir: string;
const templates = () => join(dir, 'templates');
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-removal-'));
  build('base', 'aaaa', true);
  build('base', 'bbbb', false);
  build('minimal', 'cccc', true);
});
afterEach(() => rmSync(dir, { recursive: true }));

function build(name: string, id: string, isCurrent: boolean): void {
  mkdirSync(join(templates(), id), { recursive: true });
  const manifest = { formatVersion: 1, kind: 'template', id, name, builtAt: '2026-01-01T00:00:00.000Z' };
  const file = { name: 'rootfs.erofs', sizeBytes: 1, sha256: 'a'.repeat(64) };
  writeFileSync(join(templates(), id, 'rootfs.erofs'), 'x');
  writeFileSync(
    join(templates(), id, 'manifest.json'),
    JSON.stringify({ ...manifest, recipe: '', packages: [], files: [file] }),
  );
  if (isCurrent) writeFileSync(join(templates(), `${name}.json`), JSON.stringify({ id }));
}

it('takes every build of a template away, and nothing else', async () => {
  expect((await listTemplates(dir)).map(({ name }) => name)).toEqual(['base', 'minimal']);
  writeFileSync(join(templates(), 'broken.json'), '{');
  mkdirSync(join(templates(), 'odd'));
  writeFileSync(join(templates(), 'odd', 'manifest.json'), '{');
  await removeTemplate(dir, 'base');
  await removeTemplate(dir, 'base');
  expect(readdirSync(templates()).sort()).toEqual(['broken.json', 'cccc', 'minimal.json', 'odd']);
});

it('is not there any more after a crash in the middle, and its rest goes with the next set-up', async () => {
  // As far as it comes when it is killed after its first step.
  renameSync(join(templates(), 'aaaa'), join(templates(), '.building-1'));
  expect((await listTemplates(dir)).map(({ name }) => name)).toEqual(['minimal']);
  await expect(findTemplate(dir, 'base')).rejects.toMatchObject({ code: 'not_set_up' });
  await removeLeftovers(templates());
  await removeTemplate(dir, 'base');
  expect(readdirSync(templates()).sort()).toEqual(['cccc', 'minimal.json']);
  expect(existsSync(join(dir, 'setup.lock'))).toBe(true);
});
