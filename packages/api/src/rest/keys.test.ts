/** API keys: who may make them, what they open, and their limits. */
import { describe, expect, it, vi } from 'vitest';
import { startHarness } from '../testing/harness.ts';
import { useTestApi } from '../testing/test-api.ts';

const { api, create } = useTestApi();

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

  it('hold until they expire, and are not made for a time that is over', async () => {
    const make = (atMs: number) =>
      api.call('POST', '/api-keys', { body: { name: 'e', expiresAt: new Date(atMs).toISOString() } });
    const over = await make(Date.now() - 1000);
    expect([over.status, over.body.message]).toEqual([400, 'expiresAt: is over already.']);
    const { key, expiresAt } = (await make(Date.now() + 3000)).body;
    const status = async () => (await api.call('GET', '/v2/sandboxes', { key })).status;
    // Known by now, and not remembered for longer than it holds.
    for (const _ of [1, 2]) expect(await status()).toBe(200);
    await vi.waitFor(async () => expect(await status()).toBe(401), 8000);
    expect(Date.now()).toBeGreaterThanOrEqual(Date.parse(expiresAt));
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

  it('have limits for what sleeps, and what pauses because its time is over is kept all the same', async () => {
    const limits = { maxPausedSandboxes: 1 };
    const owner = (await api.call('POST', '/api-keys', { body: { name: 'k', limits } })).body;
    expect(owner.limits).toEqual(limits);
    const { key, teamID } = owner;
    const other = (await api.call('POST', '/api-keys', { body: { name: 'o', teamID } })).body.key;
    const pause = (id: string, by = key) => api.call('POST', `/sandboxes/${id}/pause`, { key: by });
    const stateOf = async (id: string) => (await api.call('GET', `/sandboxes/${id}`, { key })).body.state;
    const [a, b] = await Promise.all([create({}, key), create({}, key)]).then((all) =>
      all.map(({ sandboxID }): string => sandboxID),
    );
    const { sandboxID: byItself } = await create({ autoPause: true }, key);
    if (a === undefined || b === undefined) throw new Error('not made');
    api.agent.transitionMs = 100;
    const both = await Promise.all([pause(a), pause(b)]);
    api.agent.transitionMs = 5;
    expect(both.map(({ status }) => status).sort()).toEqual([204, 429]);
    const refused = both.find(({ status }) => status === 429);
    expect(refused?.body.message).toContain('1 paused sandboxes at once (maxPausedSandboxes)');
    expect(refused?.headers.get('retry-after')).toBe('5');
    const [asleep, awake] = (await stateOf(a)) === 'paused' ? [a, b] : [b, a];
    expect(await stateOf(awake)).toBe('running');
    // It counts for the key that made it, whoever pauses it.
    expect((await pause(awake, other)).status).toBe(429);
    const fork = await api.call('POST', `/sandboxes/${byItself}/fork`, { key, body: { count: 1 } });
    expect(fork.status).toBe(429);
    const body = { templateID: 'base', autoPause: true };
    const made = await api.call('POST', '/v2/sandboxes', { key, body });
    expect([made.status, made.body.message]).toEqual([429, refused?.body.message]);
    await create({}, key);
    await api.agent.expire(byItself);
    expect(await stateOf(byItself)).toBe('paused');
    await api.call('DELETE', `/sandboxes/${asleep}`, { key });
    expect((await pause(awake)).status).toBe(429);
    const woken = await api.call('POST', `/v2/sandboxes/${byItself}/connect`, { key, body: {} });
    expect(woken.status).toBe(201);
    expect((await pause(awake)).status).toBe(204);
    for (const { sandboxID } of (await api.call('GET', '/v2/sandboxes', { key })).body)
      await api.call('DELETE', `/sandboxes/${sandboxID}`, { key });
  });

  it('have limits for snapshots, of which those count that are there', async () => {
    const key = await api.newKey({ maxSnapshots: 2 });
    const { sandboxID: id } = await create({}, key);
    const snapshot = () => api.call('POST', `/sandboxes/${id}/snapshots`, { key });
    const tries = await Promise.all([snapshot(), snapshot(), snapshot()]);
    expect(tries.map(({ status }) => status).sort()).toEqual([201, 201, 429]);
    const refused = tries.find(({ status }) => status === 429);
    expect(refused?.body.message).toContain('2 snapshots at once (maxSnapshots)');
    const [one, two] = tries.filter(({ status }) => status === 201).map(({ body }) => body.snapshotID);
    expect((await api.call('DELETE', `/templates/${one}`, { key })).status).toBe(204);
    expect((await snapshot()).status).toBe(201);
    expect((await snapshot()).status).toBe(429);
    // Deleted by the one who runs the host.
    api.agent.forgetSnapshot(two.replace(':default', ''));
    expect((await snapshot()).status).toBe(201);
    for (const { snapshotID } of (await api.call('GET', '/snapshots', { key })).body)
      await api.call('DELETE', `/templates/${snapshotID}`, { key });
    await api.call('DELETE', `/sandboxes/${id}`, { key });
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
