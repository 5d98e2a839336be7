/** Templates and snapshots by name. */
import { describe, expect, it } from 'vitest';
import { useTestApi } from '../testing/test-api.ts';

const { api, create } = useTestApi();

describe('templates', () => {
  it('are listed, named, tagged and published', async () => {
    const { body } = await api.call('GET', '/templates');
    expect(body.map(({ templateID }: { templateID: string }) => templateID)).toEqual(['base', 'minimal']);
    expect((await api.call('GET', '/templates/base')).body.builds).toHaveLength(1);
    expect((await api.call('GET', '/templates/aliases/base')).body).toEqual({
      templateID: 'base',
      public: true,
    });
    expect((await api.call('GET', '/templates/aliases/none')).status).toBe(404);
    const tagged = await api.call('POST', '/templates/tags', {
      body: { target: 'base:default', tags: ['v1'] },
    });
    expect(tagged.status).toBe(201);
    expect((await api.call('GET', '/templates/base/tags')).body).toHaveLength(2);
    const { sandboxID } = await create({ templateID: 'base:v1' });
    expect(api.agent.sandboxes.get(sandboxID)?.template).toBe('build-base');
    await api.call('DELETE', `/sandboxes/${sandboxID}`);
    expect((await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base:v2' } })).status).toBe(404);
    expect(
      (await api.call('DELETE', '/templates/tags', { body: { name: 'base', tags: ['v1'] } })).status,
    ).toBe(204);
    const key = await api.newKey();
    expect(
      (await api.call('PATCH', '/v2/templates/minimal', { body: { public: false } })).body.names,
    ).toEqual(['minimal']);
    expect((await api.call('GET', '/templates', { key })).body).toHaveLength(1);
    expect((await api.call('DELETE', '/templates/base', { key })).status).toBe(403);
    // That there is one is told, so that its name is not taken for free.
    expect((await api.call('GET', '/templates/aliases/minimal', { key })).status).toBe(403);
    expect((await api.call('DELETE', '/templates/minimal', { key })).status).toBe(404);
    const page = await api.call('GET', '/v2/templates?limit=1');
    expect(page.body).toHaveLength(1);
    expect(page.body[0].spawnCount).toBeGreaterThan(0);
  });

  it('are what sandboxes say they are of, by whatever name they were made and are looked for', async () => {
    const { store, agent } = api;
    await store.templates.setAlias('own', 'base');
    await api.call('POST', '/templates/tags', { body: { target: 'base', tags: ['v1'] } });
    const listed = async (template: string) => {
      const { body } = await api.call('GET', `/v2/sandboxes?template=${encodeURIComponent(template)}`);
      return body.map((each: { sandboxID: string }) => each.sandboxID).sort();
    };
    const made: string[] = [];
    for (const templateID of ['base', 'base:default', 'base:v1', 'own', 'build-base']) {
      const { sandboxID, templateID: told } = await create({ templateID });
      expect(told, templateID).toBe('base');
      expect((await api.call('GET', `/sandboxes/${sandboxID}`)).body.templateID, templateID).toBe('base');
      made.push(sandboxID);
    }
    for (const name of ['base', 'own', 'base:v1', 'build-base'])
      expect(await listed(name)).toEqual(made.sort());
    for (const name of ['minimal', 'none', 'none:v1']) expect(await listed(name)).toEqual([]);

    const { body: snapshot } = await api.call('POST', `/sandboxes/${made[0]}/snapshots`, {
      body: { name: 'mine' },
    });
    const [snapshotId = ''] = agent.snapshots.keys();
    const { sandboxID, templateID } = await create({ templateID: snapshot.snapshotID });
    expect(templateID).toBe(snapshotId);
    for (const name of ['mine', snapshot.snapshotID, snapshotId])
      expect(await listed(name)).toEqual([sandboxID]);
    for (const id of [...made, sandboxID]) await api.call('DELETE', `/sandboxes/${id}`);
    await api.call('DELETE', '/templates/mine');
    await api.call('DELETE', '/templates/tags', { body: { name: 'base', tags: ['v1'] } });
  });

  it('are there for creations from the moment in which they are public, and not one longer', async () => {
    const key = await api.newKey();
    const made = async () => {
      const { status, body } = await api.call('POST', '/v2/sandboxes', {
        body: { templateID: 'minimal' },
        key,
      });
      if (status === 201) await api.call('DELETE', `/sandboxes/${body.sandboxID}`, { key });
      return status;
    };
    for (const isPublic of [true, false, true]) {
      await api.call('PATCH', '/v2/templates/minimal', { body: { public: isPublic } });
      for (const _ of [1, 2]) expect(await made()).toBe(isPublic ? 201 : 404);
    }
  });

  it('are deleted by an admin, when nobody uses them, with all that is known of them', async () => {
    const { sandboxID } = await create({ templateID: 'minimal' });
    const tags = { target: 'minimal', tags: ['v1'] };
    expect((await api.call('POST', '/templates/tags', { body: tags })).status).toBe(201);
    const used = await api.call('DELETE', '/templates/minimal');
    expect(used).toMatchObject({
      status: 409,
      body: { code: 409, message: expect.stringContaining('1 sandbox') },
    });
    await api.call('DELETE', `/sandboxes/${sandboxID}`);
    expect((await api.call('DELETE', '/templates/minimal:v1')).status).toBe(400);
    expect((await api.call('DELETE', '/templates/minimal')).status).toBe(204);
    expect((await api.call('DELETE', '/templates/minimal')).status).toBe(404);
    expect((await api.call('POST', '/v2/sandboxes', { body: { templateID: 'minimal' } })).status).toBe(404);
    expect((await api.call('GET', '/templates/aliases/minimal')).status).toBe(404);
    expect(await api.store.templates.tags('minimal')).toEqual([]);
    expect((await api.store.templates.uses()).has('minimal')).toBe(false);
  });
});
