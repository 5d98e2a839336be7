/** Sandboxes as the REST API has them: from the creation to the end. */
import { describe, expect, it, vi } from 'vitest';
import { GUEST_ANSWER, useTestApi } from '../testing/test-api.ts';

let guestText = JSON.stringify(GUEST_ANSWER);
let tokens: (string | undefined)[] = [];
const { api, create } = useTestApi((token) => {
  tokens.push(token);
  return { status: 200, text: guestText };
});

describe('sandboxes', () => {
  it('are created with all that SDKs expect, and told in full', async () => {
    const made = await create({
      metadata: { user: 'ü & co' },
      envVars: { A: '1' },
      autoPause: true,
      autoResume: { enabled: true },
      network: {
        allowOut: ['1.1.1.1', 'example.com', '*.example.org'],
        denyOut: ['0.0.0.0/0'],
        allowPublicTraffic: false,
        // biome-ignore lint/suspicious/noTemplateCurlyInString: it is what callers write
        maskRequestHost: 'h:${PORT}',
      },
      mcp: null,
      volumeMounts: [],
    });
    expect(made).toMatchObject({
      templateID: 'base',
      clientID: 'wrenn',
      domain: 'sandboxes.test',
      envdVersion: '0.6.4',
    });
    expect(made.trafficAccessToken).toMatch(/^[0-9a-f]{48}$/);
    expect(api.agent.envs.get(made.sandboxID)).toEqual({ A: '1' });
    const { body } = await api.call('GET', `/sandboxes/${made.sandboxID}-client1`);
    expect(body).toMatchObject({
      state: 'running',
      metadata: { user: 'ü & co' },
      lifecycle: { autoResume: true, onTimeout: 'pause' },
      network: {
        allowOut: ['1.1.1.1', 'example.com', '*.example.org'],
        denyOut: ['0.0.0.0/0'],
        allowPublicTraffic: false,
        // biome-ignore lint/suspicious/noTemplateCurlyInString: it is what callers write
        maskRequestHost: 'h:${PORT}',
      },
      envdAccessToken: made.envdAccessToken,
    });
    expect(Date.parse(body.endAt) - Date.parse(body.startedAt)).toBeGreaterThan(55_000);
    expect((await api.call('DELETE', `/sandboxes/${made.sandboxID}`)).status).toBe(204);
    expect((await api.call('DELETE', `/sandboxes/${made.sandboxID}`)).status).toBe(404);
    expect(api.agent.sandboxes.has(made.sandboxID)).toBe(false);
  });

  it.each([
    [{ mcp: { x: {} } }, 'mcp'],
    [{ volumeMounts: [{ name: 'v', path: '/' }] }, 'volumeMounts'],
    [{ iam: { tokens: { a: { audience: 'x', tokenType: 'y' } } } }, 'iam'],
    [{ autoPauseMemory: false }, 'autoPauseMemory'],
    [{ network: { rules: { 'a.com': [{}] } } }, 'network.rules'],
    [{ network: { egressProxy: { address: 'a:1' } } }, 'network.egressProxy'],
    [{ network: { httpsPorts: [443] } }, 'network.httpsPorts'],
    [{ network: { allowOut: ['example.com'] } }, 'network.allowOut'],
    [{ network: { denyOut: ['example.com'] } }, 'network.denyOut'],
    [{ somethingNew: true }, 'somethingNew'],
    [{ timeout: -1 }, 'timeout'],
    [{ timeout: 1e9 }, 'timeout'],
    [{ timeout: '5' }, 'timeout'],
    [{ templateID: '' }, 'templateID'],
    [{ metadata: { a: 'x\u0000' } }, 'metadata.a'],
    [{ metadata: { 'wrenn.api.creation': 'x' } }, 'metadata'],
    [{ envVars: { 'a=b': 'x' } }, 'envVars'],
    [{ cpuCount: 1000 }, 'cpuCount'],
  ])('refuse %j and name the field', async (change, field) => {
    const before = api.agent.sandboxes.size;
    const { status, body } = await api.call('POST', '/v2/sandboxes', {
      body: { templateID: 'base', ...change },
    });
    expect(status).toBe(400);
    expect(body.message).toContain(field);
    expect(api.agent.sandboxes.size).toBe(before);
  });

  it('pause, are woken by connect, and are never given less time by it', async () => {
    const { sandboxID: id, envdAccessToken } = await create();
    expect((await api.call('POST', `/v2/sandboxes/${id}/connect`)).status).toBe(200);
    const end = async () => Date.parse((await api.call('GET', `/sandboxes/${id}`)).body.endAt);
    const long = await end();
    expect((await api.call('POST', `/sandboxes/${id}/connect`, { body: { timeout: 1 } })).status).toBe(200);
    expect(await end()).toBe(long);
    expect((await api.call('POST', `/sandboxes/${id}/resume`)).status).toBe(409);
    expect((await api.call('POST', `/sandboxes/${id}/pause`)).status).toBe(204);
    expect((await api.call('POST', `/sandboxes/${id}/pause`, { raw: '' })).status).toBe(409);
    expect((await api.call('POST', `/sandboxes/${id}/pause`, { body: { memory: false } })).status).toBe(400);
    expect((await api.call('GET', `/sandboxes/${id}`)).body.state).toBe('paused');
    const timeless = await api.call('POST', `/sandboxes/${id}/timeout`, { body: { timeout: 5 } });
    expect([timeless.status, timeless.body.message]).toEqual([404, expect.stringContaining('is paused')]);
    const both = await Promise.all(
      [1, 2].map(() => api.call('POST', `/sandboxes/${id}/connect`, { body: { timeout: 30 } })),
    );
    expect(both.map(({ status }) => status)).toEqual([201, 201]);
    expect(both[0]?.body.envdAccessToken).toBe(envdAccessToken);
    expect(await end()).toBeGreaterThan(Date.now() + 25_000);
    await api.call('DELETE', `/sandboxes/${id}`);
  });

  it('answer 409 while they are in transition', async () => {
    const { sandboxID: id } = await create();
    api.agent.transitionMs = 300;
    const calls = () => api.agent.calls.get('HibernateSandbox') ?? 0;
    const before = calls();
    const pausing = api.call('POST', `/sandboxes/${id}/pause`);
    await vi.waitFor(() => expect(calls()).toBe(before + 1), 5000);
    expect((await api.call('POST', `/sandboxes/${id}/pause`)).status).toBe(409);
    expect((await api.call('POST', `/sandboxes/${id}/fork`)).status).toBe(409);
    // It is told of as paused: who wants it awake waits until it can be woken.
    expect((await api.call('POST', `/sandboxes/${id}/connect`, { body: { timeout: 5 } })).status).toBe(201);
    expect((await pausing).status).toBe(204);
    api.agent.transitionMs = 5;
    await api.call('DELETE', `/sandboxes/${id}`);
  });

  it('set their time, extend it, and replace their network', async () => {
    const { sandboxID: id } = await create();
    const end = async () => Date.parse((await api.call('GET', `/sandboxes/${id}`)).body.endAt) - Date.now();
    expect((await api.call('POST', `/sandboxes/${id}/timeout`, { body: { timeout: 10 } })).status).toBe(204);
    expect(await end()).toBeLessThan(11_000);
    expect((await api.call('POST', `/sandboxes/${id}/refreshes`, { body: { duration: 100 } })).status).toBe(
      204,
    );
    expect(await end()).toBeGreaterThan(90_000);
    expect(
      (await api.call('PUT', `/sandboxes/${id}/network`, { body: { denyOut: ['9.9.9.9'] } })).status,
    ).toBe(204);
    expect(api.agent.sandboxes.get(id)?.network?.denyOut).toEqual(['9.9.9.9']);
    expect((await api.call('PUT', `/sandboxes/${id}/network`, { body: {} })).status).toBe(204);
    expect((await api.call('GET', `/sandboxes/${id}`)).body.network).toEqual({});
    await api.call('DELETE', `/sandboxes/${id}`);
  });

  it('are listed newest first in pages, filtered by what is twice encoded', async () => {
    const key = await api.newKey();
    const ids: string[] = [];
    for (let n = 0; n < 5; n += 1) {
      const { sandboxID } = await create({ metadata: { n: String(n), 'k=&ä': 'a b&c' } }, key);
      ids.unshift(sandboxID);
    }
    await api.call('POST', `/sandboxes/${ids[2]}/pause`, { key });
    const seen: string[] = [];
    let path = '/v2/sandboxes?limit=2';
    for (;;) {
      const { body, headers } = await api.call('GET', path, { key });
      expect(headers.get('x-total-running')).toBe('4');
      seen.push(...body.map(({ sandboxID }: { sandboxID: string }) => sandboxID));
      const next = headers.get('x-next-token');
      if (next === null) break;
      path = `/v2/sandboxes?limit=2&nextToken=${next}`;
    }
    expect(seen).toEqual(ids);
    const list = async (query: string) =>
      (await api.call('GET', `/v2/sandboxes?${query}`, { key })).body.map(
        (one: { sandboxID: string }) => one.sandboxID,
      );
    expect(await list('state=paused')).toEqual([ids[2]]);
    expect(await list('state=running&state=paused&order=asc')).toEqual([...ids].reverse());
    const form = new URLSearchParams({
      [encodeURIComponent('k=&ä')]: encodeURIComponent('a b&c'),
      n: '3',
    }).toString();
    expect(await list(`metadata=${encodeURIComponent(form)}`)).toEqual([ids[1]]);
    expect(await list('metadata=n%3D7')).toEqual([]);
    expect((await api.call('GET', '/sandboxes', { key })).body).toHaveLength(4);
    expect((await api.call('GET', '/v2/sandboxes?state=odd', { key })).status).toBe(400);
    expect((await api.call('GET', '/v2/sandboxes?nextToken=x', { key })).status).toBe(400);
    expect((await api.call('GET', '/v2/sandboxes?limit=0', { key })).body.message).toContain('limit');
    const { startedAt } = (await api.call('GET', `/sandboxes/${ids[1]}`, { key })).body;
    expect(await list(`startedAfter=${encodeURIComponent(startedAt)}`)).toContain(ids[1]);
    for (const id of ids) await api.call('DELETE', `/sandboxes/${id}`, { key });
  });

  it('have metrics from the start, of which the guest cannot make anything else', async () => {
    tokens = [];
    const { sandboxID: id, envdAccessToken } = await create();
    const { body } = await api.call('GET', `/sandboxes/${id}/metrics`);
    expect(body[0]).toMatchObject({
      cpuCount: 2,
      cpuUsedPct: 12.5,
      memUsed: 400,
      memCache: 100,
      diskTotal: 10,
    });
    expect(tokens).toContain(envdAccessToken);
    await vi.waitFor(
      async () => expect((await api.call('GET', `/sandboxes/${id}/metrics`)).body.length).toBeGreaterThan(2),
      8000,
    );
    const many = await api.call('GET', `/sandboxes/metrics?sandbox_ids=${id},aaaaaaaaaaaaaaaaaaaa`);
    expect(Object.keys(many.body.sandboxes)).toEqual([id]);
    expect((await api.call('GET', `/sandboxes/${id}/metrics?start=1&end=2`)).body).toEqual([]);
    await api.call('DELETE', `/sandboxes/${id}`);
    for (const hostile of [
      '{',
      'x'.repeat(100_000),
      '{"cpu_count":1e99}',
      JSON.stringify({ ...GUEST_ANSWER, mem_used: -1 }),
    ]) {
      guestText = hostile;
      const bad = await create();
      expect((await api.call('GET', `/sandboxes/${bad.sandboxID}/metrics`)).body).toEqual([]);
      await api.call('DELETE', `/sandboxes/${bad.sandboxID}`);
    }
    guestText = JSON.stringify(GUEST_ANSWER);
  });

  it('show their console without what steers a terminal', async () => {
    const { sandboxID: id } = await create();
    const { body } = await api.call('GET', `/sandboxes/${id}/logs`);
    // Of E2B's CLI's form.
    expect(body.logs.map(({ line }: { line: string }) => JSON.parse(line))).toEqual(
      ['[    0.100000] Linux version 6.1', '[    1.500000] wrenn-init: started', 'hello world'].map(
        (message) => ({ level: 'info', logger: 'console', message }),
      ),
    );
    const v2 = await api.call('GET', `/v2/sandboxes/${id}/logs?direction=backward&limit=1&search=hello`);
    expect(v2.body.logs).toMatchObject([{ message: 'hello world', level: 'info' }]);
    expect((await api.call('GET', `/v2/sandboxes/${id}/logs?level=error`)).body.logs).toEqual([]);
    await api.call('DELETE', `/sandboxes/${id}`);
  });

  it('fork and make snapshots, from which others start', async () => {
    const { sandboxID: id } = await create({ metadata: { of: 'it' } });
    const forks = await api.call('POST', `/sandboxes/${id}/fork`, { body: { count: 2, timeout: 30 } });
    expect(forks.body).toHaveLength(2);
    for (const { sandbox } of forks.body) {
      expect((await api.call('GET', `/sandboxes/${sandbox.sandboxID}`)).body.metadata).toEqual({ of: 'it' });
      await api.call('DELETE', `/sandboxes/${sandbox.sandboxID}`);
    }
    const named = await api.call('POST', `/sandboxes/${id}/snapshots`, { body: { name: 'mine' } });
    expect(named.body).toEqual({ snapshotID: 'mine:default', names: ['mine:default'] });
    const bare = await api.call('POST', `/sandboxes/${id}/snapshots`);
    expect(bare.body.names).toEqual([]);
    const one = await api.call('GET', `/snapshots?sandboxID=${id}&limit=1`);
    expect(one.body).toEqual([bare.body]);
    const two = await api.call(
      'GET',
      `/snapshots?sandboxID=${id}&limit=1&nextToken=${one.headers.get('x-next-token')}`,
    );
    expect(two.body).toEqual([named.body]);
    expect((await api.call('GET', '/snapshots?name=mine')).body).toEqual([named.body]);
    const copy = await create({ templateID: 'mine' });
    expect(api.agent.sandboxes.get(copy.sandboxID)?.snapshotId).not.toBe('');
    const other = await api.newKey();
    expect((await api.call('GET', '/snapshots', { key: other })).body).toEqual([]);
    // Nor by what nobody could guess.
    for (const name of [
      'mine',
      ...[...api.agent.snapshots.keys()].flatMap((one) => [one, `${one}:default`]),
    ]) {
      const path = `/templates/${encodeURIComponent(name)}`;
      expect((await api.call('DELETE', path, { key: other })).status, name).toBe(404);
      expect((await api.call('GET', path, { key: other })).status, name).toBe(404);
      const asked = { key: other, body: { templateID: name } };
      expect((await api.call('POST', '/v2/sandboxes', asked)).status, name).toBe(404);
    }
    for (const { snapshotID } of [named.body, bare.body]) {
      expect((await api.call('DELETE', `/templates/${encodeURIComponent(snapshotID)}`)).status).toBe(204);
    }
    expect(api.agent.snapshots.size).toBe(0);
    await api.call('DELETE', `/sandboxes/${id}`);
    await api.call('DELETE', `/sandboxes/${copy.sandboxID}`);
  });

  it('that fail or end by themselves are gone', async () => {
    const gone: string[] = [];
    const off = api.api.directory.onGone((id) => gone.push(id));
    const { sandboxID: failed } = await create();
    const { sandboxID: expired } = await create();
    api.agent.fail(failed);
    await api.agent.expire(expired);
    // Others' time may be over just now.
    await vi.waitFor(() => expect(gone).toEqual(expect.arrayContaining([failed, expired])), 5000);
    expect((await api.call('GET', `/sandboxes/${failed}`)).status).toBe(404);
    expect((await api.call('GET', `/sandboxes/${expired}`)).status).toBe(404);
    await vi.waitFor(async () => expect(await api.store.sandboxes.get(failed)).toBeUndefined(), 5000);
    off();
  });
});
