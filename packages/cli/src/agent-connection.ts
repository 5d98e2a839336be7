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
  agentPaths,
  agentSocketPath,
  createAgentClient,
  fromConnectError,
  isLocked,
  loadConfig,
  lockHolder,
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
/** How often is looked whether the one that has the directory has ended. */
const HOLDER_POLL_MS = 500;
/** Each but the first after the end of one that had the directory. */
const MAX_STARTS = 5;
/** After the end of one that is started here. */
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
  const { lockFile } = agentPaths(config);
  await startAndWait({ words, env: letApiIn(config), logPath, lockFile, socketPath, say });
}

export interface BackgroundStart {
  /** Node's. */
  readonly words: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly logPath: string;
  /** Of the directory, which is one agent's at a time. */
  readonly lockFile: string;
  readonly socketPath: string;
  /** For people who wait. */
  readonly say: (message: string) => void;
}

/**
 * Until an agent answers, whoever has started it: another one may have been started at the same moment and have won, or may
 * be about to end. This one is refused then, and started once more when the other one has let go of the directory.
 */
export async function startAndWait(start: BackgroundStart, timeoutMs = START_DEADLINE_MS): Promise<void> {
  const { logPath, socketPath, say } = start;
  const deadline = performance.now() + timeoutMs;
  const isLate = () => performance.now() > deadline;
  for (let starts = 1; ; starts += 1) {
    const agent = launch(start);
    if (await untilAgentAnswers(socketPath, () => isLate() || agent.exitCode() !== undefined)) return;
    const nextAt = performance.now() + LAST_LOOK_MS;
    if (await untilAgentAnswers(socketPath, () => isLate() || performance.now() > nextAt)) return;
    if (agent.exitCode() !== EXIT.conflict || starts === MAX_STARTS) {
      throw didNotStart(await lastWords(logPath, agent.saidBefore), logPath);
    }
    if (starts === 1) say(`${await holderOf(start)} has the directory; waiting for it …`);
    if (await untilHolderAnswers(start, isLate)) return;
    if (isLate()) throw doesNotAnswer(await holderOf(start), start, timeoutMs);
  }
}

/** False once the directory is free, or it is late. */
async function untilHolderAnswers(
  { lockFile, socketPath }: BackgroundStart,
  isLate: () => boolean,
): Promise<boolean> {
  while (!isLate() && (await isLocked(lockFile))) {
    const nextAt = performance.now() + HOLDER_POLL_MS;
    if (await untilAgentAnswers(socketPath, () => isLate() || performance.now() > nextAt)) return true;
  }
  return await agentAnswers(socketPath);
}

async function holderOf({ lockFile }: BackgroundStart): Promise<string> {
  const pid = await lockHolder(lockFile);
  return pid === undefined ? 'another agent' : `another agent (process ${pid})`;
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

function doesNotAnswer(
  holder: string,
  { socketPath, logPath }: BackgroundStart,
  timeoutMs: number,
): WrennError {
  return new WrennError(
    'agent_not_running',
    `The host agent did not start: ${holder} has its directory, and did not answer at ${socketPath} within ${timeoutMs / 1000} s.`,
    {
      hint: `It may listen elsewhere (WRENN_SOCKET), or hang: its log is ${logPath} if a command has started it. Ended with SIGTERM it leaves its sandboxes alone.`,
    },
  );
}

function needsRoot(cause: unknown): WrennError {
  return new WrennError('missing_privilege', 'Only root may talk to the host agent, and start it.', {
    hint: 'Run it with sudo.',
    cause,
  });
}
