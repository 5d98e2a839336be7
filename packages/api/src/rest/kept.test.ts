/** Sandboxes that the agent keeps: it could not adopt them when it started, and they may be well. */
import { Sandbox } from 'e2b';
import { describe, expect, it, vi } from 'vitest';
import { useTestApi } from '../testing/test-api.ts';

const { api, create } = useTestApi();

const noted = () => new Promise((resolve) => setTimeout(resolve, 200));
const get = (id: string) => api.call('GET', `/sandboxes/${id}`);
const listed = async (state: string): Promise<string[]> => {
  const { body } = await api.call('GET', `/v2/sandboxes?state=${state}`);
  return body.map(({ sandboxID }: { sandboxID: string }) => sandboxID);
};

describe('a sandbox that the agent keeps', () => {
  it('has not ended, and is there again when the agent has it', async () => {
    const gone: string[] = [];
    const off = api.api.directory.onGone((id) => gone.push(id));
    const { sandboxID: id, envdAccessToken } = await create({ metadata: { of: 'mine' } });
    api.agent.keep(id);
    await noted();
    expect((await get(id)).body).toMatchObject({
      state: 'running',
      metadata: { of: 'mine' },
      envdAccessToken,
    });
    expect(await listed('running')).toContain(id);
    expect((await api.call('GET', `/v2/sandboxes/${id}/logs`)).status).toBe(200);
    expect((await api.call('GET', `/sandboxes/${id}/metrics`)).status).toBe(200);
    // As after a restart of the API, which looks at all that its store has.
    await api.restart();
    await noted();
    expect((await get(id)).status).toBe(200);
    api.agent.adopt(id);
    await vi.waitFor(async () => {
      const { status } = await api.call('POST', `/v2/sandboxes/${id}/connect`, { body: {} });
      expect(status).toBe(200);
    });
    expect(gone).not.toContain(id);
    off();
    await api.call('DELETE', `/sandboxes/${id}`);
  });

  it('has not ended either where a later agent has left it in a state that is not known here', async () => {
    const { sandboxID: id } = await create();
    api.agent.keep(id);
    const sandbox = api.agent.sandboxes.get(id);
    if (sandbox === undefined) throw new Error('no sandbox');
    const { keptAs } = sandbox;
    Object.assign(sandbox, { keptAs: 99 });
    await noted();
    expect((await get(id)).body.state).toBe('running');
    expect((await api.call('POST', `/v2/sandboxes/${id}/connect`, { body: {} })).status).toBe(503);
    sandbox.keptAs = keptAs;
    expect(await api.store.sandboxes.get(id)).toBeDefined();
    await api.call('DELETE', `/sandboxes/${id}`);
  });

  it('is refused for what needs it, with when to come again', async () => {
    const { sandboxID: id } = await create();
    api.agent.keep(id);
    const asked: [string, string, unknown][] = [
      ['POST', '/v2/sandboxes/{id}/connect', {}],
      ['POST', '/sandboxes/{id}/resume', {}],
      ['POST', '/sandboxes/{id}/pause', {}],
      ['POST', '/sandboxes/{id}/timeout', { timeout: 30 }],
      ['POST', '/sandboxes/{id}/refreshes', { duration: 30 }],
      ['PUT', '/sandboxes/{id}/network', { allow_internet_access: false }],
      ['POST', '/sandboxes/{id}/snapshots', {}],
      ['POST', '/sandboxes/{id}/fork', { count: 2 }],
    ];
    for (const [method, path, body] of asked) {
      const answer = await api.call(method, path.replace('{id}', id), { body });
      expect([answer.status, answer.body.code], path).toEqual([503, 503]);
      expect(answer.body.message, path).toContain('try again later, or kill it');
      // Why is for whoever runs the host.
      expect(answer.body.message, path).not.toContain('EMFILE');
      expect(answer.headers.get('retry-after'), path).toBe('10');
    }
    const find = api.api.directory.find(id, () => true, AbortSignal.timeout(5000));
    await expect(find).rejects.toMatchObject({ code: 'sandbox_unavailable' });
    await api.call('DELETE', `/sandboxes/${id}`);
  });

  it('is no sandbox that does not exist any more for an SDK that starts a command', async () => {
    const { sandboxID: id } = await create();
    api.agent.keep(id);
    const opts = {
      sandboxId: id,
      envdVersion: '0.6.4',
      sandboxUrl: api.url,
      apiKey: 'e2b_0',
      validateApiKey: false,
    };
    const run = new Sandbox(opts).commands.run('true');
    await expect(run).rejects.toMatchObject({
      name: 'SandboxError',
      message: expect.stringContaining('The sandbox cannot be reached at the moment'),
    });
    await api.call('DELETE', `/sandboxes/${id}`);
  });

  it('can be killed', async () => {
    const { sandboxID: id } = await create();
    api.agent.keep(id);
    expect((await api.call('DELETE', `/sandboxes/${id}`)).status).toBe(204);
    expect(api.agent.sandboxes.has(id)).toBe(false);
    expect((await get(id)).status).toBe(404);
  });

  it('ends when the agent says that it has', async () => {
    const { sandboxID: id } = await create();
    api.agent.keep(id);
    await noted();
    api.agent.adopt(id);
    api.agent.fail(id);
    await vi.waitFor(async () => expect(await api.store.sandboxes.get(id)).toBeUndefined(), 5000);
    expect((await get(id)).status).toBe(404);
  });

  it('keeps its place: the memory of one that ran, the disk of one that slept', async () => {
    const key = await api.newKey({ maxSandboxes: 1, maxPausedSandboxes: 1 });
    const { sandboxID: id } = await create({}, key);
    api.agent.keep(id);
    const again = () => api.call('POST', '/v2/sandboxes', { key, body: { templateID: 'base', timeout: 60 } });
    expect((await again()).status).toBe(429);
    api.agent.adopt(id);
    expect((await api.call('POST', `/sandboxes/${id}/pause`, { key })).status).toBe(204);
    api.agent.keep(id);
    expect((await api.call('GET', `/sandboxes/${id}`, { key })).body.state).toBe('paused');
    const { sandboxID: other } = await create({}, key);
    expect((await api.call('POST', `/sandboxes/${other}/pause`, { key })).status).toBe(429);
    for (const one of [id, other]) await api.call('DELETE', `/sandboxes/${one}`, { key });
  });
});
