/** Templates as SDKs ask for them: whether there is one, and its tags. Building them is not there yet, and says so. */
import { expect, it } from 'vitest';
import { type Context, TEMPLATE } from './context.ts';
import { nameOf } from './sdks.ts';

const NOT_BUILT = /404.*does not support building templates/;

export function templateCases(context: Context): void {
  it.runIf(context.has('Template.aliasExists'))('are there or not', async () => {
    const { Template } = context.sdk;
    expect(await Template.aliasExists(TEMPLATE)).toBe(true);
    expect(await Template.aliasExists('no-such-template')).toBe(false);
    if (!context.has('Template.exists')) return;
    expect(await Template.exists(TEMPLATE)).toBe(true);
    expect(await Template.exists('no-such-template')).toBe(false);
  });

  it.runIf(context.has('Template.getTags'))('have tags, by which they are started', async () => {
    const { Template, Sandbox } = context.sdk;
    const tag = `sdk-${nameOf(context.version).replace('.', '-')}`;
    const tagsOf = async () => (await Template.getTags(TEMPLATE)).map((each) => each.tag);
    const [{ buildId } = { buildId: '' }] = await Template.getTags(TEMPLATE);
    expect(await Template.assignTags(TEMPLATE, [tag, `${tag}-too`])).toEqual({
      buildId,
      tags: [tag, `${tag}-too`],
    });
    expect(await tagsOf()).toEqual(expect.arrayContaining(['default', tag, `${tag}-too`]));
    expect(await Template.exists(`${TEMPLATE}:${tag}`)).toBe(true);
    const sandbox = context.adopt(await Sandbox.create(`${TEMPLATE}:${tag}`, { timeoutMs: 60_000 }));
    expect((await sandbox.getInfo()).templateId).toBe(TEMPLATE);
    await sandbox.kill();
    await Template.removeTags(TEMPLATE, tag);
    await Template.removeTags(TEMPLATE, [`${tag}-too`]);
    expect(await tagsOf()).not.toEqual(expect.arrayContaining([tag]));
    await expect(Template.assignTags('no-such-template', tag)).rejects.toThrow(/404.*no-such-template/);
    await expect(Sandbox.create(`${TEMPLATE}:${tag}`)).rejects.toThrow(/404/);
  });

  it.runIf(context.has('Template.build'))('are not built through the API, which says so', async () => {
    const { Template } = context.sdk;
    const template = Template().fromTemplate(TEMPLATE).runCmd('true');
    const options = { alias: 'of-my-own' };
    await expect(Template.build(template, options)).rejects.toThrow(NOT_BUILT);
    await expect(Template.buildInBackground(template, options)).rejects.toThrow(NOT_BUILT);
    const build = { templateId: TEMPLATE, buildId: '6bba6a49-4415-45f5-84cb-901ac2413b51', alias: TEMPLATE };
    await expect(Template.getBuildStatus(build)).rejects.toThrow(NOT_BUILT);
  });
}

/** The newest SDK's other way in: classes that are bound to a server, whatever the environment says. */
export function clientCases(context: Context): void {
  it.runIf(context.sdk.E2B !== undefined)('is enough without any variable', async () => {
    const { server, sdk } = context;
    const client = new sdk.E2B({ apiKey: server.key, apiUrl: server.url, sandboxUrl: server.url });
    const names = ['E2B_API_URL', 'E2B_SANDBOX_URL', 'E2B_API_KEY'] as const;
    const kept = names.map((name) => [name, process.env[name]] as const);
    for (const name of names) delete process.env[name];
    try {
      const sandbox = context.adopt(await client.Sandbox.create(TEMPLATE, { timeoutMs: 60_000 }));
      expect((await sandbox.commands.run('echo bound')).stdout).toBe('bound\n');
      const ids = (await client.Sandbox.list().nextItems()).map(({ sandboxId }) => sandboxId);
      expect(ids).toContain(sandbox.sandboxId);
      expect(await client.Template.exists(TEMPLATE)).toBe(true);
      await expect(client.Volume.list()).rejects.toThrow(/404|not found/i);
      await expect(client.Secret.getInfo('one')).rejects.toThrow(/404|not found/i);
      expect(await client.Sandbox.kill(sandbox.sandboxId)).toBe(true);
      await expect(sdk.Sandbox.list().nextItems()).rejects.toThrow(/API key/);
    } finally {
      for (const [name, value] of kept) if (value !== undefined) process.env[name] = value;
    }
  });
}
