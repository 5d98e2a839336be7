import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { startAndWait, untilAgentAnswers } from './agent-connection.ts';

let dir: string;
let socketPath: string;
let lockFile: string;
let server: Server | undefined;
let holder: ChildProcessByStdio<Writable, Readable, null> | undefined;
let said: string[];
beforeEach(() => {
  said = [];
  dir = mkdtempSync(join(tmpdir(), 'wrenn-start-'));
  socketPath = join(dir, 'agent.sock');
  lockFile = join(dir, 'agent.lock');
});
afterEach(async () => {
  await letGo();
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
  const say = (line: string) => said.push(line);
  await startAndWait({ words, env: {}, logPath, lockFile, socketPath, say }, timeoutMs);
}

const REFUSED = 'wrenn: Another agent uses this directory already.';
const REFUSE = `console.error('${REFUSED}'); process.exit(5);`;

/** How many have been started and refused. */
function refusals(): number {
  const log = join(dir, 'agent.log');
  return existsSync(log) ? readFileSync(log, 'utf8').split(REFUSED).length - 1 : 0;
}

/** Another agent has the directory. */
async function hold(): Promise<void> {
  holder = spawn('flock', [lockFile, 'cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  holder.stdin.write('held');
  await once(holder.stdout, 'data');
  writeFileSync(lockFile, '7\n');
}

/** However long that takes on a busy machine. */
async function afterRefusal(ms: number): Promise<void> {
  for (let looks = 0; looks < 300 && refusals() === 0; looks += 1) await sleep(50);
  await sleep(ms);
}

async function letGo(): Promise<void> {
  if (holder === undefined) return;
  const ended = once(holder, 'close');
  holder.stdin.end();
  holder = undefined;
  await ended;
}

describe('an agent that is started', () => {
  it('is another one where that has been started at the same moment, however long it takes', async () => {
    await hold();
    const other = afterRefusal(2000).then(listen);
    await start(REFUSE);
    expect(server?.listening).toBe(true);
    expect(refusals()).toBe(1);
    await other;
  });

  it('is started again when the one that was in its way has ended, which is said once', async () => {
    await hold();
    const ending = afterRefusal(1500).then(letGo);
    // It answers, and is gone by itself when it has been asked.
    const script = `
      try { require('node:child_process').execFileSync('flock', ['--nonblock', '${lockFile}', 'true']); }
      catch { ${REFUSE} }
      const server = require('node:net').createServer(() => process.exit(0));
      server.listen(process.argv[1]);
      setTimeout(() => process.exit(1), 10_000);`;
    await start(script);
    expect(refusals()).toBe(1);
    expect(said).toEqual(['another agent (process 7) has the directory; waiting for it …']);
    await ending;
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

  it('tells who is in its way where that never answers, and is not started again and again', async () => {
    await hold();
    await expect(start(REFUSE, 8000)).rejects.toMatchObject({
      code: 'agent_not_running',
      message: `The host agent did not start: another agent (process 7) has its directory, and did not answer at ${socketPath} within 8 s.`,
      hint: expect.stringContaining('SIGTERM'),
    });
    expect(refusals()).toBe(1);
  });

  it('is given up where it is refused by nobody that could be waited for', async () => {
    await expect(start(REFUSE)).rejects.toMatchObject({
      message: 'The host agent did not start: Another agent uses this directory already.',
    });
    expect(refusals()).toBe(5);
  });
});

it('an agent is waited for no longer than somebody wants it', async () => {
  let isOver = false;
  const answering = untilAgentAnswers(socketPath, () => isOver);
  await sleep(100);
  isOver = true;
  expect(await answering).toBe(false);
});
