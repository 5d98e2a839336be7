/** What a creation takes of the agent and the store, and what is left of one that fails. */
import { describe, expect, it, vi } from 'vitest';
import { useTestApi } from '../testing/test-api.ts';

const { api, create } = useTestApi();

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
  const asked = ['CreateSandbox', 'ListTemplates'];
  const before = asked.map(callsOf);
  const made = [await create({}, key), await create({}, key)];
  expect(asked.map((what, index) => callsOf(what) - (before[index] ?? 0))).toEqual([2, 0]);
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
