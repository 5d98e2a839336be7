/** `wrenn up`: the host agent and the API, each a process of its own, until told to end. */
import { stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type AgentConfig, agentPaths, agentSocketPath, loadConfig } from '@wrenn/agent';
import { createStderrSink } from '@wrenn/host';
import { findBootFiles, listTemplates, missingSystemPackages } from '@wrenn/images';
import { WrennError } from '@wrenn/protocol';
import { agentAnswers, untilAgentAnswers } from '../agent-connection.ts';
import { API_UID, letApiIn } from '../api-user.ts';
import { EXIT } from '../exit-codes.ts';
import { ONE_SIGNAL_MS } from '../interrupts.ts';
import { jsonLine, readableLine } from '../log-lines.ts';
import { type Supervised, type SupervisedOptions, supervise } from '../supervisor.ts';
import { findOnDemandAgent } from '../systemd/make-room.ts';
import { type ApiOptions, loadApiConfig } from './api.ts';

const AGENT_START_MS = 60_000;
const API_START_MS = 60_000;
const REACH_MS = 2_000;
const POLL_MS = 50;
const PROGRAM = `import { Sandbox } from 'e2b'
const sandbox = await Sandbox.create()
console.log((await sandbox.commands.run('uname -a')).stdout)`;

export interface UpOptions extends ApiOptions {
  readonly json?: boolean;
}

export async function runUp(options: UpOptions): Promise<void> {
  const config = loadConfig();
  // A mistake in it is told before anything is started.
  loadApiConfig(options);
  const socketPath = agentSocketPath(config);
  const log = createLog(options.json === true);
  const children: Supervised[] = [];
  let isOver = false;
  const told = untilTold(() => {
    for (const child of children) child.kill();
  });
  try {
    const isThere = await agentAnswers(socketPath);
    if (!isThere || (await isForTaking(config))) {
      if (!isThere) await checkSetUp(config);
      log('up', isThere ? 'using the host agent that a command has started' : 'starting the host agent');
      const agent = superviseOne('agent', ['agent', '--with-parent'], letApiIn(config), log, {
        isReplaced: () => agentAnswers(socketPath),
        refusedExitCode: EXIT.conflict,
      });
      children.push(agent);
      const answers = untilAgentAnswers(socketPath, () => isOver);
      const answering = within(AGENT_START_MS, answers, 'host agent');
      if ((await firstOf(told, agent.gaveUp, answering)) === 'told') return;
      agent.ready();
    }
    await checkReach(socketPath);
    log('up', 'starting the API');
    let isFirst = true;
    let tellStarted = (): void => {};
    const started = new Promise<void>((resolve) => {
      tellStarted = resolve;
    });
    const api = superviseOne('api', apiWords(options, options.newKey), { WRENN_SOCKET: socketPath }, log, {
      // Another key is made once.
      wordsAgain: apiWords(options, undefined),
      // A later process would say the same again, but for the key.
      onStdout: (line) => {
        if (isFirst) process.stdout.write(`${line}\n`);
        tellStarted();
      },
      onRestart: () => {
        isFirst = false;
      },
    });
    children.push(api);
    if ((await firstOf(told, api.gaveUp, within(API_START_MS, started, 'API'))) === 'told') return;
    api.ready();
    log('up', 'ready');
    if (process.stderr.isTTY) process.stderr.write(`\nWith these and \`npm install e2b\`:\n\n${PROGRAM}\n\n`);
    await firstOf(told, ...children.map(({ gaveUp }) => gaveUp));
  } finally {
    // Whatever still waits for something would keep this program here.
    isOver = true;
    // The last one first: the API needs the agent. Sandboxes stay.
    for (const child of children.toReversed()) await child.stop();
  }
}

type Log = (source: string, line: string) => void;

function createLog(asJson: boolean): Log {
  const write = createStderrSink();
  return (source, line) => {
    const event = { level: 'info', time: new Date().toISOString(), msg: line };
    const whole = source === 'up' ? JSON.stringify(event) : line;
    write(`${asJson ? jsonLine(source, whole) : readableLine(source, whole)}\n`);
  };
}

interface More extends Pick<SupervisedOptions, 'wordsAgain' | 'isReplaced' | 'refusedExitCode'> {
  readonly onStdout?: (line: string) => void;
  readonly onRestart?: () => void;
}

function superviseOne(
  source: string,
  words: readonly string[],
  env: Readonly<Record<string, string>>,
  log: Log,
  { onStdout = () => {}, onRestart = () => {}, ...more }: More = {},
): Supervised {
  return supervise({
    ...more,
    words,
    env,
    onStdout,
    onStderr: (line) => log(source, line),
    onRestart: (why, pauseMs) => {
      onRestart();
      log('up', `wrenn ${source} ${why}; sandboxes go on, and it is started again in ${pauseMs / 1000} s`);
    },
  });
}

function apiWords({ domain, tls }: UpOptions, newKey: string | undefined): string[] {
  return [
    'api',
    '--with-parent',
    ...(newKey === undefined ? [] : ['--new-key', newKey]),
    ...(domain === undefined ? [] : ['--domain', domain]),
    ...(tls === true ? ['--tls'] : []),
  ];
}

/** 'told' once a signal ends the program; a later one calls `hurry`. */
function untilTold(hurry: () => void): Promise<'told'> {
  return new Promise((resolve) => {
    let toldAt: number | undefined;
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
      process.on(signal, () => {
        if (toldAt !== undefined && performance.now() - toldAt > ONE_SIGNAL_MS) hurry();
        toldAt ??= performance.now();
        resolve('told');
      });
    }
  });
}

/** The first of them, as an error where it is one. */
async function firstOf(
  ...ends: readonly Promise<'told' | WrennError | undefined>[]
): Promise<'told' | undefined> {
  const first = await Promise.race(ends);
  if (first instanceof WrennError) throw first;
  return first;
}

async function within(ms: number, work: Promise<unknown>, what: string): Promise<undefined> {
  const late = sleep(ms, 'late' as const, { ref: false });
  if ((await Promise.race([work, late])) !== 'late') return undefined;
  throw new WrennError('agent_not_running', `The ${what} did not start within ${ms / 1000} s.`);
}

/** Whether nobody looks after the agent that runs: a command has started it. Once it has ended, another one takes its place. */
async function isForTaking(config: AgentConfig): Promise<boolean> {
  return process.geteuid?.() === 0 && (await findOnDemandAgent(config)) !== undefined;
}

/** An agent runs already: whether the API, with a user of its own, may speak to it. */
async function checkReach(socketPath: string): Promise<void> {
  if (process.geteuid?.() !== 0) return;
  // One that has just begun takes connections a moment before it lets anybody but root make them.
  for (const deadline = performance.now() + REACH_MS; performance.now() < deadline; await sleep(POLL_MS)) {
    if (await apiMayUse(socketPath)) return;
  }
  throw new WrennError('agent_not_running', 'The host agent that runs does not let the API use its socket.', {
    hint: `Stop that agent (\`wrenn doctor\` tells its pid; sandboxes go on) and run this again, or set server.socketGid to ${API_UID} for it.`,
  });
}

async function apiMayUse(socketPath: string): Promise<boolean> {
  const { uid, gid, mode } = await stat(socketPath);
  return (
    (mode & 0o006) === 6 ||
    (uid === API_UID && (mode & 0o600) === 0o600) ||
    (gid === API_UID && (mode & 0o060) === 0o060)
  );
}

async function checkSetUp(config: AgentConfig): Promise<void> {
  if (process.geteuid?.() !== 0) {
    throw new WrennError('missing_privilege', 'No host agent runs, and only root can start one.', {
      hint: 'Run it with sudo.',
    });
  }
  const { imagesDir } = agentPaths(config);
  const missing = await missingSystemPackages();
  const templates = await listTemplates(imagesDir);
  if (missing.length === 0 && templates.length > 0) {
    await findBootFiles(imagesDir);
    return;
  }
  const what =
    missing.length > 0
      ? `${missing.map(({ program }) => program).join(', ')} missing`
      : 'no template is built';
  throw new WrennError('not_set_up', `This machine is not set up: ${what}.`, { hint: 'wrenn setup' });
}
