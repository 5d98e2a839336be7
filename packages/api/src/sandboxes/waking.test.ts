/** Who may wake what sleeps, and how much of it: over an API with all of it real but the agent. */
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type Harness, startHarness } from '../testing/harness.ts';

let api: Harness;
beforeAll(async () => {
  api = await startHarness();
}, 60_000);
afterAll(async () => await api.close());

async function create(key: string, body: Readonly<Record<string, unknown>> = {}) {
  const answer = await api.call('POST', '/v2/sandboxes', { key, body: { templateID: 'base', ...body } });
  expect(answer.status, JSON.stringify(answer.body)).toBe(201);
  return answer.body;
}
const pause = async (key: string, id: string) =>
  expect((await api.call('POST', `/sandboxes/${id}/pause`, { key })).status).toBe(204);
const connect = (key: string, id: string) =>
  api.call('POST', `/v2/sandboxes/${id}/connect`, { key, body: { timeout: 60 } });
const throughEdge = async (id: string, port: number, path: string, headers = {}) => {
  const answer = await fetch(`${api.url}${path}`, {
    headers: { 'e2b-sandbox-id': id, 'e2b-sandbox-port': String(port), ...headers },
  });
  const body: unknown = await answer.json();
  return { status: answer.status, body, headers: answer.headers };
};
const calls = (rpc: string) => api.agent.calls.get(rpc) ?? 0;
const resumes = () => calls('ResumeSandbox');
/** What begins to wake is not awake before the result is called. */
function hold(): () => void {
  let letGo = (): void => {};
  api.agent.held = new Promise((resolve) => {
    letGo = resolve;
  });
  return () => {
    api.agent.held = undefined;
    letGo();
  };
}

describe('waking', () => {
  it('takes a place of the key that made it, however it is woken', async () => {
    const key = await api.newKey({ maxSandboxes: 1 });
    const first = await create(key, { autoResume: { enabled: true } });
    await pause(key, first.sandboxID);
    const second = await create(key);
    const refused = await connect(key, first.sandboxID);
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '5']);
    const byTraffic = await throughEdge(first.sandboxID, 8000, '/');
    expect([byTraffic.status, byTraffic.headers.get('retry-after')]).toEqual([429, '1']);
    expect(byTraffic.body).toMatchObject({ code: 429, sandboxId: first.sandboxID });
    // Refused is not gone.
    await pause(key, second.sandboxID);
    const looks = calls('GetSandbox');
    const letGo = hold();
    const trying = Promise.all([first, second, first].map(({ sandboxID }) => connect(key, sandboxID)));
    // Each has looked at its sandbox, and the one that wakes it once more.
    try {
      await expect.poll(() => calls('GetSandbox')).toBe(looks + 4);
    } finally {
      letGo();
    }
    const tries = await trying;
    // Whichever came first: a database server answers them in any order.
    expect([
      [201, 429, 201],
      [429, 201, 429],
    ]).toContainEqual(tries.map(({ status }) => status));
    const none = await api.call('POST', '/v2/sandboxes', { key, body: { templateID: 'base' } });
    expect(none.status).toBe(429);
  });

  it('counts one that wakes once', async () => {
    const key = await api.newKey({ maxSandboxes: 3 });
    const made = [await create(key), await create(key), await create(key)];
    await pause(key, made[0].sandboxID);
    await pause(key, made[1].sandboxID);
    const before = resumes();
    const letGo = hold();
    try {
      const slow = connect(key, made[0].sandboxID);
      await expect.poll(resumes).toBe(before + 1);
      api.agent.held = undefined;
      expect((await connect(key, made[1].sandboxID)).status).toBe(201);
      letGo();
      expect((await slow).status).toBe(201);
    } finally {
      letGo();
    }
  });

  it('is not for strangers, who are told what they would be told of one that runs', async () => {
    const key = await api.newKey();
    const { sandboxID: id, trafficAccessToken: token } = await create(key, {
      autoResume: { enabled: true },
      network: { allowPublicTraffic: false },
    });
    await pause(key, id);
    const before = resumes();
    expect((await throughEdge(id, 8000, '/')).status).toBe(403);
    expect((await throughEdge(id, 8000, '/', { 'e2b-traffic-access-token': 'wrong' })).status).toBe(403);
    expect((await throughEdge(id, 49_983, '/init')).status).toBe(404);
    expect(resumes()).toBe(before);
    expect((await api.call('GET', `/sandboxes/${id}`, { key })).body.state).toBe('paused');
    await throughEdge(id, 8000, '/', { 'e2b-traffic-access-token': token });
    expect(resumes()).toBe(before + 1);
    expect((await api.call('GET', `/sandboxes/${id}`, { key })).body.state).toBe('running');
  });

  it('by traffic ends with the key that made it, and is its team’s to do then', async () => {
    for (const how of ['revoked', 'expired']) {
      const { key: made, secret } = await api.store.keys.create({ name: how });
      const { secret: other } = await api.store.keys.create({ name: 'other', teamId: made.teamId });
      const { sandboxID: id } = await create(secret, { autoResume: { enabled: true } });
      await pause(secret, id);
      const before = resumes();
      const past = { ...made, expiresAt: new Date(Date.now() - 1) };
      if (how === 'revoked') await api.store.keys.revoke(made.id);
      else vi.spyOn(api.store.keys, 'get').mockResolvedValueOnce(past);
      const refused = await throughEdge(id, 8000, '/');
      // As of any other sandbox that does not run.
      expect(refused.status, how).toBe(502);
      expect(refused.body).toEqual({ sandboxId: id, message: 'The sandbox was not found', code: 502 });
      expect(resumes(), how).toBe(before);
      expect((await connect(other, id)).status, how).toBe(201);
      // One that runs is reached: its own tokens open it, and no key.
      expect((await throughEdge(id, 1, '/')).body, how).toMatchObject({ port: 1 });
    }
  });

  it('that fails for now is not told of as a sandbox that is gone', async () => {
    const key = await api.newKey();
    const { sandboxID: id } = await create(key);
    await api.agent.close();
    const answer = await throughEdge(id, 8000, '/');
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '1']);
    expect(answer.body).toMatchObject({ code: 503, sandboxId: id });
  });
});
