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
import { EXIT } from './exit-codes.ts';
import { createProgress } from './output.ts';
import { isServiceUp } from './systemd/service.ts';
import { AGENT_UNIT } from './systemd/units.ts';

/** An agent that was started on demand leaves after this long without sandboxes and requests. */
const IDLE_TIMEOUT_MS = 60_000;
/** By which such an agent is known. */
export const ON_DEMAND_OPTION = '--idle-timeout';
const START_DEADLINE_MS = 60_000;
const POLL_MS = 25;
const SERVICE_POLL_MS = 250;
/** Another one has the directory: it starts, or it ends. */
const REFUSED_PAUSE_MS = 2_000;
/** After the end of one that was not refused. */
const LAST_LOOK_MS = 500;
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

/** False where it is over before. */
export async function untilAgentAnswers(socketPath: string, isOver: () => boolean): Promise<boolean> {
  while (!isOver()) {
    if (await agentAnswers(socketPath)) return true;
    await sleep(POLL_MS);
  }
  return false;
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
  const [program] = process.argv.slice(1);
  if (program === undefined) throw new WrennError('internal', 'This program does not know its own path.');
  mkdirSync(config.wrennDir, { recursive: true, mode: 0o755 });
  // The agent bounds this file itself; here it is only made for what it says before that.
  const logPath = join(config.wrennDir, 'agent.log');
  const words = [program, 'agent', ON_DEMAND_OPTION, `${IDLE_TIMEOUT_MS}ms`, '--log-file', logPath];
  const say = createProgress(process.stderr.isTTY === true);
  await startAndWait({ words, env: letApiIn(config), logPath, socketPath, say });
}

export interface BackgroundStart {
  /** Node's. */
  readonly words: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly logPath: string;
  readonly socketPath: string;
  /** For people who wait. */
  readonly say: (message: string) => void;
}

/**
 * Until an agent answers, whoever has started it: another one may have been started at the same moment and have won, or may
 * be about to end. This one is refused then, and started once more should the other one not answer.
 */
export async function startAndWait(start: BackgroundStart, timeoutMs = START_DEADLINE_MS): Promise<void> {
  const { logPath, socketPath } = start;
  const deadline = performance.now() + timeoutMs;
  const isLate = () => performance.now() > deadline;
  for (let isFirst = true; ; isFirst = false) {
    const agent = launch(start);
    if (await untilAgentAnswers(socketPath, () => isLate() || agent.exitCode() !== undefined)) return;
    const isRefused = agent.exitCode() === EXIT.conflict;
    const nextAt = performance.now() + (isRefused ? REFUSED_PAUSE_MS : LAST_LOOK_MS);
    if (await untilAgentAnswers(socketPath, () => isLate() || performance.now() > nextAt)) return;
    if (!isRefused || isLate()) throw didNotStart(await lastWords(logPath, agent.saidBefore), logPath);
    if (isFirst) start.say('another agent has the directory; waiting for it …');
  }
}

interface Launched {
  /** Of the log, in bytes. */
  readonly saidBefore: number;
  /** Once it has ended. */
  exitCode(): number | undefined;
}

function launch({ words, env, logPath }: BackgroundStart): Launched {
  const log = openSync(logPath, 'a', 0o600);
  const saidBefore = fstatSync(log).size;
  const child = spawn(process.execPath, words, {
    detached: true,
    stdio: ['ignore', log, log],
    cwd: '/',
    env: { ...process.env, ...env },
  });
  closeSync(log);
  let exitCode: number | undefined;
  child.once('exit', (code) => {
    exitCode = code ?? EXIT.failure;
  });
  child.once('error', () => {
    exitCode = EXIT.failure;
  });
  child.unref();
  return { saidBefore, exitCode: () => exitCode };
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

function needsRoot(cause: unknown): WrennError {
  return new WrennError('missing_privilege', 'Only root may talk to the host agent, and start it.', {
    hint: 'Run it with sudo.',
    cause,
  });
}
