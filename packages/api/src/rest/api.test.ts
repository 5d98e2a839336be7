import { once } from 'node:events';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type Harness, startHarness } from '../testing/harness.ts';

const GUEST_ANSWER = {
  ts: 1,
  cpu_count: 2,
  cpu_used_pct: 12.5,
  mem_total: 1000,
  mem_used: 400,
  mem_cache: 100,
  disk_used: 5,
  disk_total: 10,
};

let api: Harness;
let guestText = JSON.stringify(GUEST_ANSWER);
let tokens: (string | undefined)[] = [];
beforeAll(async () => {
  api = await startHarness({
    config: { domain: 'sandboxes.test', sandboxes: { watchIntervalMs: 50, metricsIntervalMs: 200 } },
    guest: (token) => {
      tokens.push(token);
      return { status: 200, text: guestText };
    },
  });
}, 60_000);
afterAll(async () => await api.close());

async function create(body: Readonly<Record<string, unknown>> = {}, key?: string) {
  const options = {
    body: { templateID: 'base', timeout: 60, ...body },
    ...(key === undefined ? {} : { key }),
  };
  const answer = await api.call('POST', '/v2/sandboxes', options);
  expect(answer.status, JSON.stringify(answer.body)).toBe(201);
  return answer.body;
}

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
    await vi.waitFor(() => expect(calls()).toBe(before + 1));
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
      3000,
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
    expect(body.logs.map(({ line }: { line: string }) => line)).toEqual([
      '[    0.100000] Linux version 6.1',
      '[    1.500000] wrenn-init: started',
      'hello world',
    ]);
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
    expect(
      (await api.call('POST', '/v2/sandboxes', { key: other, body: { templateID: 'mine' } })).status,
    ).toBe(404);
    expect((await api.call('GET', '/snapshots', { key: other })).body).toEqual([]);
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
    await vi.waitFor(() => expect(gone.sort()).toEqual([failed, expired].sort()), 3000);
    expect((await api.call('GET', `/sandboxes/${failed}`)).status).toBe(404);
    expect((await api.call('GET', `/sandboxes/${expired}`)).status).toBe(404);
    await vi.waitFor(async () => expect(await api.store.sandboxes.get(failed)).toBeUndefined());
    off();
  });
});

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
    expect((await api.call('GET', '/templates/aliases/minimal')).status).toBe(404);
    expect(await api.store.templates.tags('minimal')).toEqual([]);
    expect((await api.store.templates.uses()).has('minimal')).toBe(false);
  });
});

describe('keys', () => {
  it('are made once, renamed, revoked, and managed by admins alone', async () => {
    const made = await api.call('POST', '/api-keys', { body: { name: 'k' } });
    expect(made.status).toBe(201);
    const { key, id } = made.body;
    // PostgreSQL and JavaScript do not agree on what that would be.
    const never = { name: 'k', expiresAt: '0000-01-01T00:00:00Z' };
    expect((await api.call('POST', '/api-keys', { body: never })).body.message).toContain('expiresAt');
    expect((await api.call('GET', '/v2/sandboxes', { key })).status).toBe(200);
    expect(
      (await api.call('GET', '/teams', { key: null, headers: { authorization: `Bearer ${key}` } })).body[0]
        .apiKey,
    ).toBe(key);
    expect((await api.call('GET', '/api-keys', { key })).status).toBe(403);
    expect((await api.call('GET', '/metrics', { key })).status).toBe(403);
    expect((await api.call('PATCH', `/api-keys/${id}`, { body: { name: 'n' } })).status).toBe(204);
    expect(JSON.stringify((await api.call('GET', '/api-keys')).body)).not.toContain(key);
    expect((await api.call('DELETE', `/api-keys/${id}`)).status).toBe(204);
    expect((await api.call('DELETE', '/api-keys/none')).status).toBe(404);
    expect((await api.call('GET', '/v2/sandboxes', { key })).status).toBe(401);
    expect(api.logged.join('')).not.toContain(key);
  });

  it('open nothing of another team, and nothing at all when they are wrong', async () => {
    const { sandboxID: id } = await create();
    const other = await api.newKey();
    const { secret: expired } = await api.store.keys.create({
      name: 'e',
      expiresAt: new Date(Date.now() - 1000),
    });
    const before = JSON.stringify((await api.call('GET', `/sandboxes/${id}`)).body);
    for (const [path, methods] of Object.entries(api.api.document.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (path === '/health') continue;
        const filled = path.replace('{sandboxID}', id).replaceAll(/\{\w+\}/g, 'x');
        const options = operation.requestBody === undefined ? {} : { body: { timeout: 5 } };
        for (const key of [null, 'e2b_', `e2b_${'0'.repeat(40)}`, expired]) {
          const { status } = await api.call(method.toUpperCase(), filled, { ...options, key });
          expect(status, `${method} ${path}`).toBe(401);
        }
        if (!path.includes('{sandboxID}')) continue;
        const { status } = await api.call(method.toUpperCase(), filled, { ...options, key: other });
        expect([400, 404], `${method} ${path}`).toContain(status);
      }
    }
    expect(JSON.stringify((await api.call('GET', `/sandboxes/${id}`)).body)).toBe(before);
    await api.call('DELETE', `/sandboxes/${id}`);
  });

  it('have limits, which are told with a time to come again', async () => {
    const key = await api.newKey({ maxSandboxes: 2, createsPerMinute: 8, maxMemoryMib: 600 });
    const tries = await Promise.all(
      Array.from({ length: 5 }, () =>
        api.call('POST', '/v2/sandboxes', { key, body: { templateID: 'base' } }),
      ),
    );
    expect(tries.map(({ status }) => status).sort()).toEqual([201, 201, 429, 429, 429]);
    const made = tries.filter(({ status }) => status === 201).map(({ body }) => body.sandboxID);
    expect(tries.find(({ status }) => status === 429)?.headers.get('retry-after')).toBe('5');
    await api.call('POST', `/sandboxes/${made[0]}/pause`, { key });
    const big = await api.call('POST', '/v2/sandboxes', { key, body: { templateID: 'base', memoryMB: 601 } });
    expect(big.body.message).toContain('memoryMB');
    made.push((await create({}, key)).sandboxID);
    for (let n = 0; n < 2; n += 1)
      await api.call('POST', '/v2/sandboxes', { key, body: { templateID: 'base' } });
    const fast = await api.call('POST', '/v2/sandboxes', { key, body: { templateID: 'base' } });
    expect(fast.body.message).toContain('a minute');
    expect(Number(fast.headers.get('retry-after'))).toBeGreaterThan(1);
    for (const id of made) await api.call('DELETE', `/sandboxes/${id}`, { key });
  });
});

it('keys that are none are looked for so often a minute, and shut nobody out', {
  timeout: 30_000,
}, async () => {
  const own = await startHarness({ config: { requests: { wrongKeysPerMinute: 5 } } });
  try {
    expect((await own.call('GET', '/teams')).status).toBe(200);
    const looked = vi.spyOn(own.store.keys, 'authenticate');
    const wrong = Array.from({ length: 12 }, (_, n) => `e2b_${String(n).padStart(40, '0')}`);
    const tries = await Promise.all(wrong.map((key) => own.call('GET', '/teams', { key })));
    expect(tries.filter(({ status }) => status === 401)).toHaveLength(5);
    expect(tries.filter(({ status }) => status === 429)).toHaveLength(7);
    expect(Number(tries.at(-1)?.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(looked).toHaveBeenCalledTimes(5);
    expect((await own.call('GET', '/teams')).status).toBe(200);
  } finally {
    await own.close();
  }
});

describe('the server', () => {
  it('has one form for every error', async () => {
    expect((await api.call('GET', '/nothing')).status).toBe(404);
    expect((await api.call('POST', '/volumes')).body.message).toBe('Wrenn does not support volumes.');
    expect((await api.call('GET', '/secrets/x')).body.message).toBe('Wrenn does not support secrets.');
    expect((await api.call('PUT', '/sandboxes')).status).toBe(404);
    expect((await api.call('GET', '/sandboxes/%ZZ')).status).toBe(400);
    const post = (raw: string, type = 'application/json') =>
      api.call('POST', '/v2/sandboxes', { raw, headers: { 'content-type': type } });
    expect((await post('{')).status).toBe(400);
    expect((await post('')).status).toBe(400);
    expect((await post('{"templateID":"base","__proto__":{"x":1}}')).status).toBe(400);
    expect((await post('x', 'text/plain')).status).toBe(415);
    expect((await post(`"${'x'.repeat(2 * 1024 * 1024)}"`)).status).toBe(413);
    expect((await api.call('GET', `/sandboxes/${'x'.repeat(2000)}`)).status).toBeLessThan(500);
  });

  it('describes itself, and counts', async () => {
    const { status, body } = await api.call('GET', '/openapi.json', { key: null });
    expect(status).toBe(200);
    expect(body.openapi).toBe('3.1.0');
    const page = await api.call('GET', '/docs', { key: null });
    expect(page.body).toContain('/v2/sandboxes');
    expect(page.body).not.toMatch(/<script|src=|https?:\/\//);
    expect((await api.call('GET', '/health', { key: null })).status).toBe(204);
    const metrics: string = (await api.call('GET', '/metrics')).body;
    expect(metrics).toContain('wrenn_api_requests_total{method="GET",route="/health"');
    for (const name of [
      'agent_up 1',
      'event_loop_delay_p99_seconds',
      'open_files',
      'cpu_seconds_total',
      'info{version="',
    ]) {
      expect(metrics).toMatch(new RegExp(`^wrenn_api_${name.replace('{', '\\{')}`, 'm'));
    }
    const lines = api.logged.map((line) => JSON.parse(line)).filter(({ msg }) => msg === 'request');
    expect(
      lines.every(({ requestId, route }) => typeof requestId === 'string' && typeof route === 'string'),
    ).toBe(true);
    expect(lines.some(({ sandboxId }) => typeof sandboxId === 'string')).toBe(true);
  });

  it('does not tell what failed inside', async () => {
    api.agent.failCreate = 'internal';
    const { status, body } = await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base' } });
    expect(status).toBe(500);
    expect(body.message).not.toContain('not to be');
    api.agent.failCreate = 'memory_exhausted';
    const full = await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base' } });
    expect(full.status).toBe(503);
    expect(full.headers.get('retry-after')).not.toBeNull();
    expect(await api.store.sandboxes.unfinished()).toEqual([]);
  });
});

describe('many clients that connect at once', () => {
  it('are one to the agent, and each has the time that it asked for', async () => {
    const { sandboxID: id } = await create();
    const before = api.agent.calls.get('SetSandboxTimeout') ?? 0;
    const answers = await Promise.all(
      Array.from({ length: 40 }, (_, n) =>
        api.call('POST', `/sandboxes/${id}/connect`, { body: { timeout: n % 2 === 0 ? 1000 : 2000 } }),
      ),
    );
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
    expect((api.agent.calls.get('SetSandboxTimeout') ?? 0) - before).toBeLessThanOrEqual(10);
    const { body } = await api.call('GET', `/sandboxes/${id}`);
    expect(Date.parse(body.endAt)).toBeGreaterThan(Date.now() + 1_990_000);
    await api.call('DELETE', `/sandboxes/${id}`);
  });
});

describe('a new sandbox that cannot be reached', () => {
  it('is nobody’s and does not stay', async () => {
    const { sandboxID: parent } = await create();
    const before = [...api.agent.sandboxes.keys()];
    api.agent.failAccess = 'internal';
    try {
      for (const path of ['/v2/sandboxes', `/sandboxes/${parent}/fork`]) {
        const body = path === '/v2/sandboxes' ? { templateID: 'base' } : { count: 3 };
        expect((await api.call('POST', path, { body })).status).toBe(500);
        expect([...api.agent.sandboxes.keys()]).toEqual(before);
      }
    } finally {
      api.agent.failAccess = undefined;
    }
    expect(await api.store.sandboxes.unfinished()).toEqual([]);
    expect((await api.call('GET', '/v2/sandboxes')).body).toHaveLength(1);
    await api.call('DELETE', `/sandboxes/${parent}`);
  });
});

it('a creation asks for no more than it needs', async () => {
  await api.call('DELETE', `/sandboxes/${(await create()).sandboxID}`);
  const key = await api.newKey({ maxSandboxes: 2 });
  const [counted, looked] = [vi.spyOn(api.store.sandboxes, 'count'), vi.spyOn(api.store.sandboxes, 'live')];
  const callsOf = (what: string) => api.agent.calls.get(what) ?? 0;
  const before = [callsOf('CreateSandbox'), callsOf('ListTemplates')];
  const made = [await create({}, key), await create({}, key)];
  expect([callsOf('CreateSandbox'), callsOf('ListTemplates')]).toEqual(before.map((count) => count + 2));
  expect(counted).toHaveBeenCalledTimes(2);
  expect(looked).not.toHaveBeenCalled();
  // At the limit it matters which of them sleep.
  await api.call('POST', `/sandboxes/${made[0].sandboxID}/pause`, { key });
  made.push(await create({}, key));
  expect(looked).toHaveBeenCalledTimes(1);
  for (const spy of [counted, looked]) spy.mockRestore();
  for (const { sandboxID } of made) await api.call('DELETE', `/sandboxes/${sandboxID}`, { key });
});

it('new sandboxes that are to end at once are told of first', async () => {
  const made: { sandboxID: string }[] = [];
  for (let n = 0; n < 10; n += 1) made.push(await create({ timeout: 0 }));
  await vi.waitUntil(() => made.every(({ sandboxID }) => !api.agent.sandboxes.has(sandboxID)), 5000);
});

describe('the directory of the edge', () => {
  const find = (id: string, mayWake = () => true) =>
    api.api.directory.find(id, mayWake, AbortSignal.timeout(5000));

  it('wakes a sandbox once for all that ask, where its owner wants that', async () => {
    const { sandboxID: id } = await create({
      autoResume: { enabled: true },
      // biome-ignore lint/suspicious/noTemplateCurlyInString: it is what callers write
      network: { allowPublicTraffic: false, maskRequestHost: 'localhost:${PORT}' },
    });
    const target = await find(id);
    expect(target).toMatchObject({
      sandboxId: id,
      address: '127.0.0.1',
      // biome-ignore lint/suspicious/noTemplateCurlyInString: it is what callers write
      maskRequestHost: 'localhost:${PORT}',
    });
    expect(target?.trafficToken).toMatch(/^[0-9a-f]{48}$/);
    const gone: string[] = [];
    const off = api.api.directory.onGone((one) => gone.push(one));
    await api.call('POST', `/sandboxes/${id}/pause`);
    // Others' ends may be told at this moment, too.
    expect(gone).toContain(id);
    const resumes = api.agent.calls.get('ResumeSandbox') ?? 0;
    expect(await find(id, () => false)).toBeUndefined();
    expect(api.agent.calls.get('ResumeSandbox') ?? 0).toBe(resumes);
    const [stranger, ...found] = await Promise.all([
      find(id, () => false),
      ...Array.from({ length: 20 }, () => find(id)),
    ]);
    expect(stranger).toBeUndefined();
    expect(new Set(found.map((one) => one?.address))).toEqual(new Set(['127.0.0.1']));
    expect((api.agent.calls.get('ResumeSandbox') ?? 0) - resumes).toBe(1);
    expect(api.agent.sandboxes.get(id)?.endsAt).toBeDefined();
    await api.call('DELETE', `/sandboxes/${id}`);
    expect(await find(id)).toBeUndefined();
    off();
  });

  it('waits for one that is only just going to sleep, and wakes it then', async () => {
    const { sandboxID: id } = await create({ autoPause: true, autoResume: { enabled: true }, timeout: 30 });
    api.agent.transitionMs = 200;
    try {
      const resumes = api.agent.calls.get('ResumeSandbox') ?? 0;
      const asleep = api.agent.expire(id);
      expect((await find(id))?.address).toBe('127.0.0.1');
      expect((api.agent.calls.get('ResumeSandbox') ?? 0) - resumes).toBe(1);
      await asleep;
      const again = api.agent.expire(id);
      const { status } = await api.call('POST', `/v2/sandboxes/${id}/connect`, { body: {} });
      expect(status).toBe(201);
      await again;
      expect((await api.call('GET', `/sandboxes/${id}`)).body.state).toBe('running');
    } finally {
      api.agent.transitionMs = 5;
      await api.call('DELETE', `/sandboxes/${id}`);
    }
  });

  it('does not go by what it knew of one whose time is over', async () => {
    const { sandboxID: id } = await create({ timeout: 1 });
    expect(await find(id)).toBeDefined();
    await sleep(1100);
    expect(await find(id)).toBeUndefined();
  });

  it('leaves others asleep, and knows no strangers', async () => {
    const { sandboxID: id } = await create();
    await api.call('POST', `/sandboxes/${id}/pause`);
    expect(await find(id)).toBeUndefined();
    expect(await find('../etc/passwd')).toBeUndefined();
    expect(await find('a'.repeat(20))).toBeUndefined();
    await expect(api.api.directory.find(id, () => true, AbortSignal.abort())).rejects.toMatchObject({
      code: 'cancelled',
    });
    await api.call('DELETE', `/sandboxes/${id}`);
  });
});

describe('the unmodified SDK', () => {
  it('creates, lists, pauses, connects, takes snapshots of and kills', { timeout: 30_000 }, async () => {
    const options = { apiKey: api.key, apiUrl: api.url };
    const made = await Sandbox.create('base', {
      ...options,
      timeoutMs: 60_000,
      metadata: { sdk: 'yes ä&=' },
    });
    const paginator = Sandbox.list({ ...options, query: { metadata: { sdk: 'yes ä&=' } } });
    const listed = await paginator.nextItems();
    expect(listed.map(({ sandboxId }) => sandboxId)).toEqual([made.sandboxId]);
    expect((await made.getInfo()).state).toBe('running');
    await made.setTimeout(120_000);
    expect((await made.getMetrics()).length).toBeGreaterThan(0);
    expect(await Sandbox.pause(made.sandboxId, options)).toBe(true);
    expect(await Sandbox.pause(made.sandboxId, options)).toBe(false);
    const again = await Sandbox.connect(made.sandboxId, options);
    const snapshot = await again.createSnapshot();
    expect(await Sandbox.deleteSnapshot(snapshot.snapshotId, options)).toBe(true);
    expect(await again.kill()).toBe(true);
    expect(await Sandbox.kill(made.sandboxId, options)).toBe(false);
  });
});

describe('a restart', () => {
  it('loses nothing, destroys what nobody waited for, and marks what ended meanwhile', {
    timeout: 60_000,
  }, async () => {
    const { sandboxID: kept } = await create({ metadata: { a: 'b' } });
    const { sandboxID: ended } = await create();
    const { sandboxID: orphan } = await create();
    await api.store.sandboxes.begin('lost', 't');
    const sandbox = api.agent.sandboxes.get(orphan);
    if (sandbox !== undefined) sandbox.metadata['wrenn.api.creation'] = 'lost';
    const restarting = api.restart();
    await sleep(10);
    await api.agent.expire(ended);
    await restarting;
    expect((await api.call('GET', `/sandboxes/${kept}`)).body.metadata).toEqual({ a: 'b' });
    expect((await api.call('GET', `/sandboxes/${ended}`)).status).toBe(404);
    await vi.waitFor(() => expect(api.agent.sandboxes.has(orphan)).toBe(false), 5000);
    expect(await api.store.sandboxes.get(ended)).toBeUndefined();
  });
});

describe('the edge', () => {
  it('has what is for a port of a sandbox, and the API has the rest', async () => {
    const guest = createServer((incoming, outgoing) => outgoing.end(`guest ${incoming.url}`));
    guest.listen(0, '127.0.0.1');
    await once(guest, 'listening');
    const address = guest.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const { sandboxID: id } = await create();
    const sandbox = api.agent.sandboxes.get(id);
    if (sandbox !== undefined) sandbox.address = '127.0.0.1';
    const headers = { 'e2b-sandbox-id': id, 'e2b-sandbox-port': String(port) };
    const reached = await fetch(`${api.url}/v2/sandboxes`, { headers });
    expect(await reached.text()).toBe('guest /v2/sandboxes');
    expect((await api.call('GET', '/v2/sandboxes')).status).toBe(200);
    const unknown = { ...headers, 'e2b-sandbox-id': 'x'.repeat(20) };
    expect((await fetch(api.url, { headers: unknown })).status).toBe(502);
    expect((await api.call('DELETE', `/sandboxes/${id}`)).status).toBe(204);
    await vi.waitFor(async () => expect((await fetch(api.url, { headers })).status).toBe(502), 5000);
    guest.closeAllConnections();
    guest.close();
  });
});
