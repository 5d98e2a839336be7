import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { agentPaths, parseConfig } from '@wrenn/agent';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { agentAnswers } from '../agent-connection.ts';
import { makeRoomForService } from './make-room.ts';

let dir: string;
let agent: ChildProcess | undefined;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-room-'));
});
afterEach(async () => {
  if (agent?.exitCode === null && agent.signalCode === null) {
    agent.kill('SIGKILL');
    await once(agent, 'exit');
  }
  agent = undefined;
  rmSync(dir, { recursive: true });
});

const config = () => parseConfig({ wrennDir: dir });
const forEver = () => new AbortController().signal;

/** Something like an agent, which has the directory. */
async function run(words: readonly string[], onTerm: string): Promise<void> {
  const { socketPath, lockFile } = agentPaths(config());
  const script = `
    process.on('SIGTERM', () => { ${onTerm} });
    require('node:net').createServer((it) => it.destroy()).listen(process.argv.at(-1), () => console.log('ready'));`;
  agent = spawn(process.execPath, ['-e', script, '--', ...words, socketPath], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  writeFileSync(lockFile, `${agent.pid}\n`);
  await once(agent.stdout ?? agent, 'data');
}

it('is made where nobody is, and by an agent that a command has started', async () => {
  await makeRoomForService(config(), forEver());
  await run(['agent', '--idle-timeout', '60000ms'], 'process.exit(0)');
  await makeRoomForService(config(), forEver());
  expect(await agentAnswers(agentPaths(config()).socketPath)).toBe(false);
});

it('is made by one that does not answer yet, or no more', async () => {
  const { socketPath, lockFile } = agentPaths(config());
  await run(['agent', '--idle-timeout', '60000ms'], 'process.exit(0)');
  rmSync(socketPath);
  const holder = spawn('flock', ['--no-fork', lockFile, 'cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  holder.stdin.write('held');
  await once(holder.stdout, 'data');
  await makeRoomForService(config(), forEver());
  await expect.poll(() => agent?.exitCode, { timeout: 10_000 }).toBe(0);
  // Whose that is nobody can say: it may be on its way out.
  await makeRoomForService(config(), forEver());
  holder.stdin.end();
  await once(holder, 'close');
});

it('is not made by an agent that was started by hand, which goes on', async () => {
  await run(['agent'], 'process.exit(0)');
  await expect(makeRoomForService(config(), forEver())).rejects.toMatchObject({
    code: 'agent_already_running',
    message: expect.stringContaining('by hand'),
  });
  expect(await agentAnswers(agentPaths(config()).socketPath)).toBe(true);
});

it('is waited for within a bound, and not by who gives up', async () => {
  await run(['agent', '--idle-timeout', '60000ms'], '');
  setFlagsFromString('--expose-gc');
  // Nothing that is waited for may be collected meanwhile.
  const collecting = setInterval(runInNewContext('gc'), 20);
  const making = makeRoomForService(config(), forEver(), 200);
  await expect(making.finally(() => clearInterval(collecting))).rejects.toMatchObject({
    code: 'agent_already_running',
    message: `The agent that a command has started (process ${agent?.pid}) did not end within 0.2 s.`,
    hint: expect.stringContaining(`kill -9 ${agent?.pid}`),
  });
  const given = new AbortController();
  const another = makeRoomForService(config(), given.signal);
  given.abort(new Error('enough'));
  await expect(another).rejects.toThrow('enough');
});
