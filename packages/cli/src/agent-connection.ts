/** The connection to the host agent; starts one in the background when none answers. */
import { spawn } from 'node:child_process';
import { closeSync, fstatSync, mkdirSync, openSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type AgentClient,
  type AgentConfig,
  agentSocketPath,
  createAgentClient,
  fromConnectError,
  loadConfig,
} from '@wrenn/agent';
import { WrennError } from '@wrenn/protocol';
import { letApiIn } from './api-user.ts';
import { isServiceUp } from './systemd/service.ts';
import { AGENT_UNIT } from './systemd/units.ts';

/** An agent that was started on demand leaves after this long without sandboxes and requests. */
const IDLE_TIMEOUT_MS = 60_000;
/** By which such an agent is known. */
export const ON_DEMAND_OPTION = '--idle-timeout';
const START_DEADLINE_MS = 60_000;
const POLL_MS = 25;
const SERVICE_POLL_MS = 250;
const LAST_WORDS_BYTES = 4096;

/** Calls `use` with a client, and closes it. Errors of the agent come out as WrennErrors. */
export async function withAgent<T>(
  use: (client: AgentClient, config: AgentConfig) => Promise<T>,
): Promise<T> {
  const config = await loadConfig();
  await ensureAgent(config);
  const client = createAgentClient({ socketPath: agentSocketPath(config) });
  try {
    return await use(client, config);
  } catch (error) {
    throw fromConnectError(error);
  } finally {
    client.close();
  }
}

/** Whether an agent listens there. Throws `missing_privilege` where one does, but not for this user. */
export async function agentAnswers(socketPath: string): Promise<boolean> {
  return await new Promise((resolve, reject) => {
    const socket = connect(socketPath);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EACCES') reject(needsRoot(error));
      else resolve(false);
    });
  });
}

async function ensureAgent(config: AgentConfig): Promise<void> {
  const socketPath = agentSocketPath(config);
  if (await agentAnswers(socketPath)) return;
  if (process.getuid?.() !== 0) throw needsRoot(undefined);
  if (await isServiceUp(socketPath)) await untilServiceAnswers(socketPath);
  else await startInBackground(config, socketPath);
}

/** systemd has started it, or is about to: another one would only be in its way. */
async function untilServiceAnswers(socketPath: string): Promise<void> {
  const deadline = performance.now() + START_DEADLINE_MS;
  while (performance.now() < deadline && (await isServiceUp(socketPath))) {
    if (await agentAnswers(socketPath)) return;
    await sleep(SERVICE_POLL_MS);
  }
  throw new WrennError('agent_not_running', `${AGENT_UNIT} did not answer.`, {
    hint: `Its log: journalctl -u ${AGENT_UNIT}`,
  });
}

async function startInBackground(config: AgentConfig, socketPath: string): Promise<void> {
  mkdirSync(config.wrennDir, { recursive: true, mode: 0o755 });
  const logPath = join(config.wrennDir, 'agent.log');
  // The agent bounds this file itself; here it is only made for what it says before that.
  const log = openSync(logPath, 'a', 0o600);
  const saidBefore = fstatSync(log).size;
  const [program] = process.argv.slice(1);
  if (program === undefined) throw new WrennError('internal', 'This program does not know its own path.');
  const args = [program, 'agent', ON_DEMAND_OPTION, `${IDLE_TIMEOUT_MS}ms`, '--log-file', logPath];
  const child = spawn(process.execPath, args, {
    detached: true,
    stdio: ['ignore', log, log],
    cwd: '/',
    env: { ...process.env, ...letApiIn(config) },
  });
  closeSync(log);
  let ended: number | undefined;
  child.once('exit', (code) => {
    ended = code ?? 1;
  });
  child.once('error', () => {
    ended = 1;
  });
  child.unref();
  const deadline = performance.now() + START_DEADLINE_MS;
  while (performance.now() < deadline) {
    if (await agentAnswers(socketPath)) return;
    // Another one may have been started at the same moment, and have won.
    if (ended !== undefined && !(await answersSoon(socketPath))) break;
    await sleep(POLL_MS);
  }
  throw didNotStart(await lastWords(logPath, saidBefore), logPath);
}

/** What the agent said on its standard error since it was started, the end of it. */
async function lastWords(logPath: string, offset: number): Promise<string> {
  const file = await open(logPath, 'r');
  try {
    const { size } = await file.stat();
    const start = Math.max(offset, size - LAST_WORDS_BYTES);
    const buffer = Buffer.alloc(Math.max(0, size - start));
    await file.read(buffer, 0, buffer.length, start);
    return buffer.toString('utf8');
  } finally {
    await file.close();
  }
}

/** The agent tells its failures as every command does: a line with the message, one with the hint. */
function didNotStart(said: string, logPath: string): WrennError {
  const message = [...said.matchAll(/^wrenn: (.+)$/gm)].at(-1)?.[1];
  const hint = [...said.matchAll(/^hint: (.+)$/gm)].at(-1)?.[1];
  return new WrennError(
    'agent_not_running',
    `The host agent did not start${message === undefined ? '.' : `: ${message}`}`,
    {
      hint: hint ?? `Its log is ${logPath}; \`wrenn agent\` runs it in the foreground.`,
    },
  );
}

async function answersSoon(socketPath: string): Promise<boolean> {
  await sleep(20 * POLL_MS);
  return await agentAnswers(socketPath);
}

function needsRoot(cause: unknown): WrennError {
  return new WrennError('missing_privilege', 'Only root may talk to the host agent, and start it.', {
    hint: 'Run it with sudo.',
    cause,
  });
}
