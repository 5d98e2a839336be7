/** What the client says to a guest, outside of RPCs. How it takes what guests say: hostile.test.ts. */
import { createServer, type IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { createEnvdClient } from './client.ts';

const never = new AbortController().signal;
const IDLE_CONNECTION_MS = 200;
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Seen {
  readonly endpoint: string;
  readonly token: unknown;
  readonly body: Record<string, unknown>;
  readonly socket: IncomingMessage['socket'];
}

async function guest(status = 204, answersAfterMs = 0) {
  const seen: Seen[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Uint8Array[] = [];
    for await (const chunk of request) chunks.push(chunk);
    seen.push({
      endpoint: `${request.method} ${request.url}`,
      token: request.headers['x-access-token'],
      body: JSON.parse(Buffer.concat(chunks).toString()),
      socket: request.socket,
    });
    await sleep(answersAfterMs);
    response.writeHead(status).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const client = createEnvdClient({
    host: '127.0.0.1',
    port,
    accessToken: 'own',
    requestTimeoutMs: 15_000,
    stallMs: 15_000,
    idleConnectionMs: IDLE_CONNECTION_MS,
  });
  closers.push(() => {
    client.close();
    server.closeAllConnections();
    server.close();
  });
  return { client, seen };
}

const settings = { envs: { A: '1' }, defaultUser: 'user', defaultWorkdir: '/' };

describe('init', () => {
  it('says nothing of identities where none is given', async () => {
    const { client, seen } = await guest();
    await client.init(settings, never);
    expect(seen).toMatchObject([{ endpoint: 'POST /init', token: 'own' }]);
    expect(seen[0]?.body).toEqual({
      accessToken: 'own',
      envVars: { A: '1' },
      defaultUser: 'user',
      defaultWorkdir: '/',
      timestamp: expect.stringMatching(/^\d{4}-.*Z$/),
    });
  });

  it('tells a clone who it is, in the words of its parent', async () => {
    const { client, seen } = await guest();
    const entropy = new Uint8Array(32).fill(255);
    const identity = { hostname: 'sb-1', machineId: 'a'.repeat(32), entropy, nameservers: ['192.0.2.1'] };
    await client.init({ ...settings, identity, replaceEnvs: true, previousAccessToken: 'of-parent' }, never);
    expect(seen).toMatchObject([
      {
        token: 'of-parent',
        body: {
          accessToken: 'own',
          replaceEnvs: true,
          identity: { ...identity, entropy: '//////////////////////////////////////////8=' },
        },
      },
    ]);
    await client.init({ ...settings, identity: { hostname: 'sb-2' } }, never);
    expect(seen[1]?.body.identity).toEqual({ hostname: 'sb-2' });
  });
});

describe('a connection', () => {
  it('is used again, and given up once it has been idle', async () => {
    const { client, seen } = await guest();
    await client.init(settings, never);
    await client.init(settings, never);
    expect(seen[1]?.socket).toBe(seen[0]?.socket);
    await vi.waitFor(() => expect(seen[0]?.socket.destroyed).toBe(true), 5000);
  });

  it('stays for as long as an answer is waited for', async () => {
    const { client, seen } = await guest(204, 3 * IDLE_CONNECTION_MS);
    await client.init(settings, never);
    expect(seen).toHaveLength(1);
  });
});

describe('quiesce', () => {
  it('leaves no idle connection behind, and asks on a new one', async () => {
    const { client, seen } = await guest();
    await client.init(settings, never);
    await client.quiesce(never);
    const [init, quiesce] = seen;
    expect(quiesce).toMatchObject({ endpoint: 'POST /quiesce', token: 'own', body: {} });
    expect(init?.socket.destroyed).toBe(true);
    expect(quiesce?.socket).not.toBe(init?.socket);
  });

  it('fails where the guest cannot, and within its deadline', async () => {
    const { client } = await guest(404);
    await expect(client.quiesce(never)).rejects.toMatchObject({ code: 'guest_protocol' });
    const abort = new AbortController();
    abort.abort();
    await expect(client.quiesce(abort.signal)).rejects.toMatchObject({ code: 'cancelled' });
  });
});
