import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findTemplate, listTemplates } from './catalog.ts';

const SHA = 'a'.repeat(64);
const BUILT_AT = '2025-01-01T00:00:00.000Z';

describe('the catalogue', () => {
  let wrennDir: string;
  beforeEach(() => {
    wrennDir = mkdtempSync(join(tmpdir(), 'wrenn-catalog-'));
  });
  afterEach(() => rmSync(wrennDir, { recursive: true }));

  function install(
    kind: string,
    directory: string,
    id: string,
    pointer: string,
    names: string[],
    more: object,
  ) {
    mkdirSync(join(wrennDir, directory, id), { recursive: true });
    for (const name of names) writeFileSync(join(wrennDir, directory, id, name), 'data');
    const files = names.map((name) => ({ name, sizeBytes: 4, sha256: SHA }));
    const manifest = { formatVersion: 1, kind, id, builtAt: BUILT_AT, files, ...more };
    writeFileSync(join(wrennDir, directory, id, 'manifest.json'), JSON.stringify(manifest));
    writeFileSync(join(wrennDir, directory, pointer), JSON.stringify({ id }));
  }
  const kernel = () =>
    install('kernel', 'kernels', '6.1-x', 'current.json', ['vmlinux', 'initrd'], {
      release: '6.1',
      source: 's',
      recipe: 'r',
    });
  const guest = () => install('guest', 'guests', 'g1', 'current.json', ['guest.erofs'], {});
  const template = (more: object = {}) =>
    install('template', 'templates', 'b1', 'tiny.json', ['rootfs.erofs'], {
      name: 'tiny',
      recipe: 'r',
      packages: ['a 1'],
      ...more,
    });

  it('finds a template by its name and by its build id, with what boots it', async () => {
    kernel();
    guest();
    template();
    const found = await findTemplate(wrennDir, 'tiny');
    expect(found).toEqual({
      name: 'tiny',
      buildId: 'b1',
      rootfsPath: join(wrennDir, 'templates/b1/rootfs.erofs'),
      guestImagePath: join(wrennDir, 'guests/g1/guest.erofs'),
      kernelPath: join(wrennDir, 'kernels/6.1-x/vmlinux'),
      initrdPath: join(wrennDir, 'kernels/6.1-x/initrd'),
    });
    expect(await findTemplate(wrennDir, 'b1')).toEqual(found);
    expect(await listTemplates(wrennDir)).toMatchObject([{ name: 'tiny', sizeBytes: 4, packages: 1 }]);
  });

  it.each(['other', '../tiny', 'tiny/../tiny', '', 'TINY', 'a'.repeat(500), 'x\0y'])(
    'does not know %j',
    async (name) => {
      kernel();
      guest();
      template();
      await expect(findTemplate(wrennDir, name)).rejects.toMatchObject({
        code: 'template_not_found',
        hint: 'Known: tiny',
      });
    },
  );

  it('says what is missing', async () => {
    await expect(findTemplate(wrennDir, 'tiny')).rejects.toMatchObject({
      code: 'not_set_up',
      message: /kernel/,
    });
    kernel();
    await expect(findTemplate(wrennDir, 'tiny')).rejects.toMatchObject({
      code: 'not_set_up',
      message: /guest/,
    });
    guest();
    await expect(findTemplate(wrennDir, 'tiny')).rejects.toMatchObject({
      code: 'not_set_up',
      message: /template/,
    });
  });

  it('does not count a template as built whose image has another size', async () => {
    kernel();
    guest();
    template();
    writeFileSync(join(wrennDir, 'templates/b1/rootfs.erofs'), 'shorter or longer');
    await expect(findTemplate(wrennDir, 'tiny')).rejects.toMatchObject({ code: 'not_set_up' });
  });

  it('refuses a manifest with a field that it does not know', async () => {
    kernel();
    guest();
    template({ surprise: true });
    await expect(findTemplate(wrennDir, 'tiny')).rejects.toMatchObject({
      code: 'not_set_up',
      hint: /wrenn setup/,
    });
  });
});
