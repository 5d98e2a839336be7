/** The connection to an agent that comes and goes. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http2';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { WrennError } from '@wrenn/protocol';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { apiConfigSchema } from '../config/schema.ts';
import { startFakeAgent } from '../testing/fake-agent.ts';
import { type Agent, createAgent } from './index.ts';

let dir: string;
let socketPath: string;
let agent: Agent;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-session-'));
  socketPath = join(dir, 'agent.sock');
  agent = createAgent(apiConfigSchema.parse({ agent: { socketPath, callTimeoutMs: 5000 } }).agent);
});
afterEach(() => {
  agent.close();
  rmSync(dir, { recursive: true });
});

const notRunning = { code: 'agent_not_running' };

describe('the connection to the agent', () => {
  it('survives agents that end in good order while they are asked, and finds the next one', async () => {
    await expect(agent.ping()).rejects.toMatchObject(notRunning);
    for (let round = 0; round < 20; round += 1) {
      const fake = await startFakeAgent(socketPath);
      await agent.ping();
      // Asked at every moment of its end: the process survives that, or this test does not.
      const asked: Promise<unknown>[] = [];
      const closed = fake.close();
      for (let n = 0; n < 10; n += 1) {
        asked.push(agent.ping().then(() => 'answered', WrennError.from));
        await sleep(n < 5 ? 0 : 1);
      }
      await closed;
      for (const said of await Promise.all(asked)) {
        if (said instanceof WrennError) expect(['agent_not_running', 'cancelled']).toContain(said.code);
      }
      await expect(agent.ping()).rejects.toMatchObject(notRunning);
    }
  });

  it('that breaks in the middle of a call is told of as no answer', async () => {
    const sockets = new Set<Socket>();
    const server = createServer();
    server.on('connection', (socket: Socket) => sockets.add(socket));
    server.on('stream', (stream) => {
      stream.on('error', () => {});
      for (const socket of sockets) socket.destroy();
    });
    await new Promise<void>((resolve) => server.listen(socketPath, resolve));
    const said = await agent.get('a').catch(WrennError.from);
    // What a creation that ends with it leaves is looked for (sandboxes/creations.ts).
    expect(said).toMatchObject({ code: expect.stringMatching(/^(agent_not_running|cancelled)$/) });
    await new Promise((resolve) => server.close(resolve));
  });

  it('does not keep those waiting who ask when it is closed', async () => {
    const server = createServer();
    server.on('stream', (stream) => stream.on('error', () => {}));
    await new Promise<void>((resolve) => server.listen(socketPath, resolve));
    const asked = once(server, 'stream');
    const waiting = agent.get('a').catch((error: unknown) => error);
    await asked;
    agent.close();
    expect(await waiting).toMatchObject({ code: 'cancelled' });
    await expect(agent.ping()).rejects.toMatchObject({ code: 'cancelled' });
    await new Promise((resolve) => server.close(resolve));
  });
});
