/** `wrenn up`: the host agent and the API, each a process of its own, until told to end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { agentSocketPath, loadConfig } from '@wrenn/agent';
import { WrennError } from '@wrenn/protocol';
import { agentAnswers } from '../agent-connection.ts';
import { API_UID, type ApiOptions } from './api.ts';

const AGENT_START_MS = 60_000;
const POLL_MS = 50;
const PROGRAM = `
import { Sandbox } from 'e2b'
const sandbox = await Sandbox.create()
console.log((await sandbox.commands.run('uname -a')).stdout)
`;

export async function runUp(options: ApiOptions): Promise<void> {
  const socketPath = agentSocketPath(loadConfig());
  const children: ChildProcess[] = [];
  const ended = new Promise<string>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
  });
  /** The last one first: the API needs the agent. */
  const stop = async (): Promise<void> => {
    for (const child of children.toReversed()) await end(child);
  };
  const start = (words: readonly string[], env: Readonly<Record<string, string>>): Promise<string> => {
    const [entry = ''] = process.argv.slice(1);
    // Ctrl+C is for this process, which ends them in their order.
    const child = spawn(process.execPath, [entry, ...words], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'inherit', 'inherit'],
      detached: true,
    });
    children.push(child);
    return new Promise((resolve) =>
      child.once('close', (code) => resolve(`wrenn ${words[0]} ended with ${code}`)),
    );
  };
  try {
    const ends: Promise<string>[] = [ended];
    if (!(await agentAnswers(socketPath))) {
      const agentEnded = start(['agent'], { WRENN_SOCKET_GID: String(API_UID) });
      ends.push(agentEnded);
      await untilAnswers(socketPath, agentEnded);
    }
    const more = options.newKey === undefined ? [] : ['--new-key', options.newKey];
    ends.push(start(['api', ...more], { WRENN_SOCKET: socketPath }));
    if (process.stderr.isTTY) process.stderr.write(`With these and \`npm install e2b\`:\n${PROGRAM}\n`);
    const why = await Promise.race(ends);
    if (why.startsWith('SIG')) return;
    throw new WrennError('agent_not_running', `${why}.`, { hint: 'What it said is above.' });
  } finally {
    await stop();
  }
}

async function untilAnswers(socketPath: string, ended: Promise<string>): Promise<void> {
  const deadline = Date.now() + AGENT_START_MS;
  while (!(await agentAnswers(socketPath))) {
    const why = await Promise.race([ended, sleep(POLL_MS)]);
    if (why !== undefined)
      throw new WrennError('agent_not_running', `${why}.`, { hint: 'What it said is above.' });
    if (Date.now() > deadline) {
      throw new WrennError(
        'agent_not_running',
        `The agent did not answer within ${AGENT_START_MS / 1000} s.`,
      );
    }
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = new Promise((resolve) => child.once('close', resolve));
  child.kill('SIGTERM');
  await closed;
}
