/** A template is deleted when nobody uses it, and not a moment earlier. */
import { describe, expect, it } from 'vitest';
import { codeOf, expectNothingLeft, request, start, until } from './testing/manager-harness.ts';

describe('a template', () => {
  it('stays while sandboxes or snapshots of it are there, and says which', async () => {
    const { world, manager } = await start();
    const { id } = await manager.create(request);
    await expect(manager.deleteTemplate('base')).rejects.toMatchObject({
      code: 'template_in_use',
      message: `The template base is used by 1 sandbox (${id}).`,
    });
    const snapshot = await manager.snapshot(id);
    await manager.hibernate(id);
    await expect(manager.deleteTemplate('base')).rejects.toThrow(/1 sandbox .*, 1 snapshot/);
    await manager.destroy(id);
    await expect(manager.deleteTemplate('base')).rejects.toThrow(`1 snapshot (${snapshot.id})`);
    await manager.deleteSnapshot(snapshot.id);
    expect(world.removedTemplates).toEqual([]);
    await manager.deleteTemplate('base');
    expect(world.removedTemplates).toEqual(['base']);
    expect(await codeOf(manager.deleteTemplate('base'))).toBe('template_not_found');
    expect(await codeOf(manager.create(request))).toBe('template_not_found');
    expectNothingLeft(world);
  });

  it('goes with what it was kept warm by', async () => {
    const { world, manager } = await start();
    await manager.warmTemplate(request);
    expect(world.manifests.size).toBe(1);
    await manager.deleteTemplate('base');
    expect(world.manifests.size).toBe(0);
    expectNothingLeft(world);
  });

  it('is not deleted from under a creation, nor is one begun from it meanwhile', async () => {
    const { world, manager } = await start();
    const held: { goOn?: (() => void) | undefined } = {};
    world.disturb = (operation) =>
      operation === 'removeTemplate' || operation === 'createLayer'
        ? new Promise((resolve) => {
            held.goOn = resolve;
          })
        : Promise.resolve();
    const creating = manager.create(request);
    await until(() => held.goOn !== undefined);
    expect(await codeOf(manager.deleteTemplate('base'))).toBe('template_in_use');
    held.goOn?.();
    const { id } = await creating;
    await manager.destroy(id);

    // Assigned directly, the compiler would think that it stays so.
    Object.assign(held, { goOn: undefined });
    const removing = manager.deleteTemplate('base');
    await until(() => held.goOn !== undefined);
    expect(await codeOf(manager.create(request))).toBe('template_not_found');
    expect(await codeOf(manager.deleteTemplate('base'))).toBe('template_not_found');
    held.goOn?.();
    await removing;
    expectNothingLeft(world);
  });

  it('is used from the moment on at which a request has found it', async () => {
    const { manager } = await start();
    const [creating, removing] = await Promise.allSettled([
      manager.create(request),
      manager.deleteTemplate('base'),
    ]);
    // One of them was first, and the other is told.
    expect([creating.status, removing.status].sort()).toEqual(['fulfilled', 'rejected']);
  });

  it('that the pool keeps ready stays', async () => {
    const { manager } = await start({ config: { pool: { entries: [{ size: 1 }] } } });
    await expect(manager.deleteTemplate('base')).rejects.toThrow('pool.entries');
  });

  it('that could not be removed is there again for whoever asks', async () => {
    const { world, manager } = await start();
    world.disturb = async (operation) => {
      if (operation === 'removeTemplate') throw new Error('the disk is gone');
    };
    await expect(manager.deleteTemplate('base')).rejects.toThrow('the disk is gone');
    world.disturb = async () => {};
    const { id } = await manager.create(request);
    await manager.destroy(id);
  });
});
