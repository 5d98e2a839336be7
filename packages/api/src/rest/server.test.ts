/** What holds for every request, and for the API as a whole. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from 'e2b';
import { describe, expect, it, vi } from 'vitest';
import { useTestApi } from '../testing/test-api.ts';

const { api, create } = useTestApi();

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
    const { sandboxID: id } = await create();
    expect((await api.call('DELETE', `/sandboxes/${id}`)).status).toBe(204);
    const { status, body } = await api.call('GET', '/openapi.json', { key: null });
    expect(status).toBe(200);
    expect(body.openapi).toBe('3.1.0');
    const page = await api.call('GET', '/docs', { key: null });
    expect(page.body).toContain('/v2/sandboxes');
    expect(page.body).not.toMatch(/<script|src=|https?:\/\//);
    // In words, for people: those who want JSON have the document.
    expect(page.body).not.toMatch(/"type"|\$ref|&#34;(type|anyOf)&#34;/);
    expect(page.body).toContain(
      '<td><code>timeout</code><td>integer from 0 to 2147483647<td>Seconds from now.',
    );
    for (const link of page.body.matchAll(/href="#(\w+)"/g)) expect(page.body).toContain(`id="${link[1]}"`);
    for (const [path, methods] of Object.entries<object>(body.paths)) {
      for (const method of Object.keys(methods)) {
        expect(page.body).toContain(`<b>${method.toUpperCase()}</b> <code>${path}</code>`);
      }
    }
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
    // The one that made it, too, and each by an id that no other process gives.
    const about = lines.filter(({ sandboxId }) => sandboxId === id);
    expect(about.map(({ method, route }) => `${method} ${route}`)).toEqual([
      'POST /v2/sandboxes',
      'DELETE /sandboxes/:sandboxID',
    ]);
    const ids = new Set<string | null>();
    for (const path of ['/health', '/health', '/sandboxes', '/none', '/a/%zz']) {
      ids.add((await api.call('GET', path, { key: null })).headers.get('x-request-id'));
    }
    expect([...ids].filter((id) => /^[0-9a-f]{16}$/.test(id ?? ''))).toHaveLength(5);
    expect(metrics).toMatch(/^wrenn_api_sandboxes\{state="hibernated"\} 0$/m);
  });

  it('answers HEAD as GET, without the body', async () => {
    const head = async (path: string, headers: Readonly<Record<string, string>> = {}) => {
      const answer = await fetch(`${api.url}${path}`, { method: 'HEAD', headers });
      expect(await answer.text()).toBe('');
      return answer;
    };
    expect((await head('/health')).status).toBe(204);
    const page = await head('/docs');
    expect([page.status, Number(page.headers.get('content-length')) > 1000]).toEqual([200, true]);
    expect((await head('/v2/sandboxes')).status).toBe(401);
    expect((await head('/v2/sandboxes', { 'x-api-key': api.key })).status).toBe(200);
    expect((await head('/nowhere')).status).toBe(404);
    expect((await head('/api-keys', { 'x-api-key': await api.newKey() })).status).toBe(403);
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
