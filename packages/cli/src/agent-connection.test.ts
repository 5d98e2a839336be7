import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { startAndWait, untilAgentAnswers } from './agent-connection.ts';

let dir: string;
let socketPath: string;
let server: Server | undefined;
let said: string[];
beforeEach(() => {
  said = [];
  dir = mkdtempSync(join(tmpdir(), 'wrenn-start-'));
  socketPath = join(dir, 'agent.sock');
});
afterEach(() => {
  server?.close();
  server = undefined;
  rmSync(dir, { recursive: true });
});

function listen(): void {
  server = createServer((socket) => socket.destroy());
  server.listen(socketPath);
}

/** Something like an agent, in its own words. */
async function start(script: string, timeoutMs = 15_000): Promise<void> {
  const logPath = join(dir, 'agent.log');
  const words = ['-e', script, '--', socketPath];
  await startAndWait({ words, env: {}, logPath, socketPath, say: (line) => said.push(line) }, timeoutMs);
}

const REFUSED =
  "console.error('wrenn: Another agent (process 7) uses this directory already.'); process.exit(5);";

describe('an agent that is started', () => {
  it('is another one where that has been started at the same moment, however long it takes', async () => {
    const other = sleep(1500).then(listen);
    await start(REFUSED);
    expect(server?.listening).toBe(true);
    await other;
  });

  it('is started again until the one that was in its way has ended, which is said once', async () => {
    // Two are refused; the next one answers, and is gone by itself when it has been asked.
    const script = `
      const { existsSync, writeFileSync } = require('node:fs');
      const [socketPath] = process.argv.slice(1);
      for (const mark of [socketPath + '.first', socketPath + '.second'])
        if (!existsSync(mark)) { writeFileSync(mark, ''); process.exit(5); }
      const server = require('node:net').createServer(() => process.exit(0));
      server.listen(socketPath);
      setTimeout(() => process.exit(1), 10_000);`;
    await start(script);
    expect(said).toEqual([expect.stringContaining('waiting for it')]);
  });

  it('tells at once why it could not start', async () => {
    const startedAt = performance.now();
    const script = "console.error('wrenn: It is broken.\\nhint: mend it'); process.exit(4)";
    await expect(start(script)).rejects.toMatchObject({
      code: 'agent_not_running',
      message: 'The host agent did not start: It is broken.',
      hint: 'mend it',
    });
    expect(performance.now() - startedAt).toBeLessThan(10_000);
  });

  it('tells who was in its way where that never answers', async () => {
    await expect(start(REFUSED, 4000)).rejects.toMatchObject({
      message: 'The host agent did not start: Another agent (process 7) uses this directory already.',
    });
  });
});

it('an agent is waited for no longer than somebody wants it', async () => {
  let isOver = false;
  const answering = untilAgentAnswers(socketPath, () => isOver);
  await sleep(100);
  isOver = true;
  expect(await answering).toBe(false);
});
