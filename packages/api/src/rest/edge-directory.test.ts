/** What the edge is told of sandboxes. */
import { setTimeout as sleep } from 'node:timers/promises';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import { SandboxState } from '@wrenn/protocol/agent';
import { describe, expect, it, vi } from 'vitest';
import { useTestApi } from '../testing/test-api.ts';

const { api, create } = useTestApi();

/** For as long as some rounds take. */
const looked = () => sleep(200);

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

  it('cuts nobody off from one that could not be put to sleep, and everybody from one that sleeps', async () => {
    const gone: string[] = [];
    const off = api.api.directory.onGone((id) => gone.push(id));
    const { sandboxID: id } = await create();
    const sandbox = api.agent.sandboxes.get(id);
    if (sandbox === undefined) throw new Error('it has ended');
    await looked();
    for (const state of [SandboxState.HIBERNATING, SandboxState.RUNNING, SandboxState.HIBERNATING]) {
      sandbox.state = state;
      await looked();
      expect(gone).not.toContain(id);
    }
    sandbox.state = SandboxState.HIBERNATED;
    await vi.waitFor(() => expect(gone).toContain(id), 15_000);
    off();
    await api.call('DELETE', `/sandboxes/${id}`);
  });

  it('cuts off whoever is connected to where one was that has slept since, however short', async () => {
    const gone: string[] = [];
    const off = api.api.directory.onGone((id) => gone.push(id));
    const moved = async (): Promise<string> => {
      const { sandboxID: id } = await create();
      const sandbox = api.agent.sandboxes.get(id);
      if (sandbox === undefined) throw new Error('it has ended');
      sandbox.address = '127.0.0.2';
      return id;
    };
    const told = await moved();
    await api.call('POST', `/sandboxes/${told}/timeout`, { body: { timeout: 60 } });
    expect(gone).toContain(told);
    const seen = await moved();
    await vi.waitFor(() => expect(gone).toContain(seen), 15_000);
    gone.length = 0;
    await looked();
    expect(gone).not.toContain(seen);
    off();
    for (const id of [told, seen]) await api.call('DELETE', `/sandboxes/${id}`);
  });

  it('does not go by what it knew of one whose time is over', async () => {
    const { sandboxID: id } = await create();
    const sandbox = api.agent.sandboxes.get(id);
    if (sandbox === undefined) throw new Error('it has ended');
    // It says so, and ends when it is told to: there until it has been found, and not noticed to be gone before that.
    sandbox.endsAt = timestampFromDate(new Date(Date.now() + 300));
    expect(await find(id)).toBeDefined();
    await sleep(400);
    await api.agent.expire(id);
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
