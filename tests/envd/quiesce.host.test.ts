import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createEnvdClient } from '../../packages/agent/src/envd-client/client.ts';
import { type OwnMachine, script, startOwnMachine } from './own-machine.ts';
import { startEnvd } from './start-envd.ts';

const never = new AbortController().signal;

describe.skipIf(process.getuid?.() !== 0)('POST /quiesce', () => {
  let machine: OwnMachine;
  let synced: string;
  beforeEach(async () => {
    machine = await startOwnMachine();
    synced = join(machine.bin, 'synced');
    await script(machine.bin, 'sync', `echo yes >>${synced}`);
  }, 60_000);
  afterEach(() => machine?.stop());

  const quiesce = (body?: string, headers: Record<string, string> = {}) =>
    fetch(`${machine.envd.url}/quiesce`, {
      method: 'POST',
      headers,
      ...(body === undefined ? {} : { body }),
    });

  it('writes back, keeps the page cache, and closes its connection', async () => {
    const response = await quiesce();
    expect([response.status, response.headers.get('connection')]).toEqual([204, 'close']);
    expect(readFileSync(synced, 'utf8')).toBe('yes\n');
    expect(readFileSync(machine.dropCaches, 'utf8')).toBe('');
    expect(await machine.sh('echo goes on')).toBe('goes on\n');
  });

  it('drops the page cache when asked to', async () => {
    expect((await quiesce('{"dropCaches":true}')).status).toBe(204);
    expect(readFileSync(machine.dropCaches, 'utf8')).toBe('3');
  });

  it('is done in time, however slow the drives are, and others are answered meanwhile', async () => {
    await script(machine.bin, 'sync', `echo begun >>${synced}; exec sleep 60`);
    const startedAt = performance.now();
    const order: string[] = [];
    const response = quiesce().finally(() => order.push('done'));
    while (!existsSync(synced)) await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await machine.sh('echo alive')).toBe('alive\n');
    order.push('another');
    expect((await response).status).toBe(204);
    expect(order).toEqual(['another', 'done']);
    expect(performance.now() - startedAt).toBeLessThan(30_000);
  });

  it('is for those who know the token', async () => {
    await machine.envd.init({ accessToken: 'secret' });
    expect((await quiesce()).status).toBe(401);
    expect((await quiesce('{}', { 'X-Access-Token': 'secret' })).status).toBe(204);
  });

  it.each([
    ['{', 400],
    ['{"dropCaches":7}', 400],
    [JSON.stringify({ x: 'x'.repeat(1024) }), 413],
  ])('refuses what it does not understand, %#', async (body, status) => {
    expect((await quiesce(body)).status).toBe(status);
    expect(existsSync(synced)).toBe(false);
  });

  it("makes a clone out of its parent, by the agent's client", async () => {
    const clientOf = (accessToken: string) =>
      createEnvdClient({
        host: '127.0.0.1',
        port: machine.envd.port,
        accessToken,
        requestTimeoutMs: 10_000,
        stallMs: 10_000,
      });
    const parent = clientOf('of the parent');
    const child = clientOf('of the child');
    const settings = { defaultUser: 'root', defaultWorkdir: '/' };
    try {
      await parent.init({ ...settings, envs: { PARENT: '1' } }, never);
      await parent.quiesce(never);
      const asChild = {
        ...settings,
        envs: { CHILD: '2' },
        replaceEnvs: true,
        previousAccessToken: 'of the parent',
        identity: { hostname: 'child', entropy: new Uint8Array(32), nameservers: [] },
      };
      await child.init(asChild, never);
      // A retry whose first answer was lost: the guest knows the new token already.
      await child.init(asChild, never);
      const said = await machine.sh('echo "[$PARENT] $CHILD"; uname -n', {
        'X-Access-Token': 'of the child',
      });
      expect(said).toBe('[] 2\nchild\n');
      await expect(parent.quiesce(never)).rejects.toMatchObject({ code: 'guest_protocol' });
    } finally {
      parent.close();
      child.close();
      await machine.envd.init({ accessToken: 'of the child' });
    }
  });
});

it('drops no page cache where the machine is not its own', async () => {
  const envd = await startEnvd();
  try {
    const response = await fetch(`${envd.url}/quiesce`, { method: 'POST', body: '{"dropCaches":true}' });
    expect(response.status).toBe(501);
  } finally {
    await envd.stop();
  }
});
