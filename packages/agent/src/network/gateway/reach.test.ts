import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createReach } from './reach.ts';

const CONNECT_MS = 2000;
const silent: Socket[] = [];
let asked = 0;

beforeAll(async () => {
  for (let n = 0; n < 4; n += 1) {
    const server = createSocket('udp4').on('message', () => {
      asked += 1;
    });
    silent.push(server);
    await once(server.bind(0, '127.0.0.1'), 'listening');
  }
});
afterAll(() => {
  for (const server of silent) server.close();
});

it('looks for a name no longer than it may, however many servers are silent', async () => {
  const resolvers = silent.map((server) => `127.0.0.1:${server.address().port}`);
  const reach = createReach({ denied: [], resolvers, connectMs: CONNECT_MS });
  const startedAt = performance.now();
  expect(await reach('example.com', 80)).toBe('unknown');
  const tookMs = performance.now() - startedAt;
  await expect.poll(() => asked).toBeGreaterThan(0);
  expect(tookMs).toBeLessThan(2.5 * CONNECT_MS);
});

it('rejects for nothing', async () => {
  const reach = createReach({ denied: [], resolvers: ['no address'], connectMs: CONNECT_MS });
  expect(await reach('example.com', 80)).toBe('unreachable');
});
