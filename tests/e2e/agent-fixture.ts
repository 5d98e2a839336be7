/**
 * An agent of a test's own: a directory, an address range, names and users that no other agent has, with the
 * machine's images. Runs in this process, or as one that can be killed.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import {
  type AgentClient,
  type AgentConfigInput,
  agentSocketPath,
  createAgentClient,
  fromConnectError,
  leftCgroups,
  parseConfig,
} from '@wrenn/agent';
import { runCommand } from '@wrenn/host';
import { wrennDirFromEnv } from '@wrenn/images';
import {
  type CreateSandboxRequestSchema,
  type ExecRequest,
  ExecRequestSchema,
  type Sandbox,
} from '@wrenn/protocol/agent';
import { build } from 'esbuild';

export const TEMPLATE = 'minimal';
export const REQUEST = { template: TEMPLATE, vcpus: 1, memoryMib: 256, diskMib: 128 };

/** What the laboratory wants to be tried; outside of it the agent chooses. */
const LAB_DRIVER = process.env.WRENN_LAB_DRIVER;

/** So many times longer things may take in the laboratory, where the agent is emulated and its guests are nested. */
export const PATIENCE = LAB_DRIVER === undefined ? 1 : 10;

const LOG_LINES_TOLD = 15;
const COMMAND_CHARS_TOLD = 160;

const LAB_CONFIG: AgentConfigInput = {
  driver: LAB_DRIVER === 'firecracker' ? 'firecracker' : 'qemu',
  timeouts: { bootMs: 300_000, kvmProbeMs: 60_000, guestRequestMs: 120_000, adoptMs: 120_000 },
};

/** The driver and accelerator that an agent of a test must have; undefined where any will do. */
export const EXPECTED_DRIVER =
  LAB_DRIVER === undefined ? undefined : { driver: LAB_CONFIG.driver, accelerator: 'kvm' };

export interface TestAgentFiles {
  readonly dir: string;
  readonly config: AgentConfigInput;
  readonly prefix: string;
  readonly socketPath: string;
  remove(): Promise<void>;
}

/** `number` makes the names and addresses different from other test files'. */
export async function prepareAgent(number: number, extra: AgentConfigInput = {}): Promise<TestAgentFiles> {
  // Short: the paths of unix sockets are.
  const dir = await mkdtemp('/tmp/wr-');
  const prefix = `wt${number}`;
  const config: AgentConfigInput = {
    ...(LAB_DRIVER === undefined ? {} : LAB_CONFIG),
    // Nothing is done in the background but what a test asks for.
    warm: { mode: 'off' },
    ...extra,
    wrennDir: dir,
    imagesDir: wrennDirFromEnv(),
    uidBase: 1_950_000_000 + number * 1000,
    network: { range: `10.231.${number}.0/24`, prefix, holdOffMs: 0, readySlots: 0, ...extra.network },
    log: { level: 'debug', file: join(dir, 'agent.log') },
  };
  return {
    dir,
    config,
    prefix,
    socketPath: agentSocketPath(parseConfig(config)),
    remove: () => rm(dir, { recursive: true, force: true }),
  };
}

/** What the kernel and the file system hold of an agent's sandboxes; empty when nothing is left. */
export async function remains(files: TestAgentFiles): Promise<string[]> {
  const { dir, prefix } = files;
  const [netns, links, rules, mounts, sandboxes, processes, cgroups] = await Promise.all([
    run('ip', ['-json', 'netns', 'list']),
    run('ip', ['-json', 'link', 'show']),
    run('nft', ['-j', 'list', 'table', 'inet', tableOf(prefix)]).catch(() => ''),
    readFile('/proc/self/mountinfo', 'utf8'),
    readdir(join(dir, 'sandboxes')),
    processesOf(files),
    leftCgroups(prefix),
  ]);
  // Others' names may begin alike: `wt21` is not `wt2`.
  const named = new RegExp(`"(?:name|ifname)":"(${prefix}(?!\\d)[^"]*)"`, 'g');
  return [
    ...[...netns.matchAll(named)].map((match) => `namespace ${match[1]}`),
    ...[...links.matchAll(named)].map((match) => `link ${match[1]}`),
    ...[...rules.matchAll(/"elem":\[[^\]]+\]/g)].map((match) => `rule ${match[0]}`),
    ...mounts.split('\n').filter((line) => line.includes(dir) || new RegExp(`/${prefix}(?!\\d)`).test(line)),
    ...sandboxes.map((name) => `directory ${name}`),
    ...processes,
    ...cgroups.map((path) => `cgroup ${path}`),
  ];
}

/** Whether the agent's rules are there: they are for as long as it runs, or its sandboxes do. */
export async function hasRules({ prefix }: TestAgentFiles): Promise<boolean> {
  return (await run('nft', ['list', 'tables'])).includes(tableOf(prefix));
}

function tableOf(prefix: string): string {
  return `${prefix}_slots`;
}

/**
 * Those that run as one of the agent's thousand users, and those of root that work on one of its sandboxes: each with its
 * state and the beginning of its command line.
 */
async function processesOf({ dir, config }: TestAgentFiles): Promise<string[]> {
  const uidBase = config.uidBase ?? 0;
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
      const state = /^State:\s+(\w)/m.exec(status)?.[1];
      if (state === undefined || state === 'Z') return [];
      const uid = Number(/^Uid:\s+(\d+)/m.exec(status)?.[1] ?? 0);
      const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
      const isOurs = (uid >= uidBase && uid < uidBase + 1000) || commandLine.includes(`${dir}/sandboxes/`);
      const told = commandLine.replaceAll('\0', ' ').slice(0, COMMAND_CHARS_TOLD);
      return isOurs ? [`process ${pid} (${state}) ${told}`] : [];
    }),
  );
  return found.flat();
}

async function run(program: string, args: string[]): Promise<string> {
  const { stdout } = await runCommand(program, args, { timeoutMs: 30_000 * PATIENCE });
  return stdout;
}

export interface AgentProcess {
  readonly pid: number;
  readonly client: AgentClient;
  /** The exit code, once the process is gone. */
  readonly ended: Promise<number | null>;
  /** Resolves when the process is gone. */
  kill(signal: 'SIGKILL' | 'SIGTERM'): Promise<number | null>;
}

/** Loads the configuration that WRENN_CONFIG names, and is killed where, or after how many ms, DIE_AT says. */
const AGENT_PROGRAM = `
  import { loadConfig, runAgent } from '@wrenn/agent';
  import { runEgressDoor, runEgressGateway, runEgressKeeper } from '@wrenn/agent/egress';
  const role = process.argv[2];
  const afterMs = Number(process.env.DIE_AT || NaN);
  if (afterMs >= 0) setTimeout(() => process.kill(process.pid, 'SIGKILL'), afterMs).unref();
  const checkpoint = (step, moment) => {
    if (moment + ' ' + step === process.env.DIE_AT) process.kill(process.pid, 'SIGKILL');
  };
  if (role === 'egress-gateway') runEgressGateway();
  else if (role === 'egress-keeper') runEgressKeeper();
  else if (role === 'egress-door') await runEgressDoor();
  else runAgent({ config: loadConfig(), checkpoint }).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });`;

/**
 * The agent as a program, bundled once for each directory. With `dieAt` it is killed at that point of a creation (as
 * `before network`), or so many ms after its start (as `120`). Rejects if it ends before it answers. A detached one
 * does not hear of Ctrl+C.
 */
export async function startAgentProcess(
  files: TestAgentFiles,
  dieAt = '',
  detached = false,
): Promise<AgentProcess> {
  const program = join(files.dir, 'agent.mjs');
  const configFile = join(files.dir, 'config.json');
  if (!existsSync(program)) await bundleAgent(program);
  await writeFile(configFile, JSON.stringify(files.config));
  const child = spawn(process.execPath, [program], {
    // Firecracker, if it is wanted, is found in PATH.
    env: { PATH: process.env.PATH, WRENN_CONFIG: configFile, DIE_AT: dieAt },
    detached,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const ended = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)));
  const client = createAgentClient({ socketPath: files.socketPath });
  try {
    await untilAnswering(client, child.pid ?? 0, ended);
  } catch (error) {
    child.kill('SIGKILL');
    throw new Error(`${String(error)}; the log ends with\n${await lastOfLog(files)}`, { cause: error });
  }
  return {
    pid: child.pid ?? 0,
    client,
    ended,
    kill: async (signal) => {
      child.kill(signal);
      const code = await ended;
      client.close();
      return code;
    },
  };
}

/** What it was doing: nobody sees the file afterwards. */
async function lastOfLog({ config }: TestAgentFiles): Promise<string> {
  const text = await readFile(config.log?.file ?? '', 'utf8').catch(() => '');
  return text.split('\n').slice(-LOG_LINES_TOLD).join('\n');
}

async function bundleAgent(program: string): Promise<void> {
  await build({
    stdin: { contents: AGENT_PROGRAM, resolveDir: import.meta.dirname },
    outfile: program,
    bundle: true,
    platform: 'node',
    target: 'node20.19',
    format: 'esm',
    logLevel: 'error',
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
    },
  });
}

async function untilAnswering(client: AgentClient, pid: number, ended: Promise<unknown>): Promise<void> {
  let gone = false;
  void ended.then(() => {
    gone = true;
  });
  const deadline = Date.now() + 60_000 * PATIENCE;
  for (;;) {
    const info = await client.agent.getInfo({}, { timeoutMs: 2000 * PATIENCE }).catch(() => undefined);
    if (info?.pid === pid) return;
    if (gone) throw new Error('the agent ended');
    if (Date.now() > deadline) throw new Error('the agent does not answer');
    await sleep(20);
  }
}

export interface Executed {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

export interface ExecOptions {
  readonly user?: string;
  readonly stdin?: AsyncIterable<Uint8Array>;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** Told of the process's start. */
  readonly onStarted?: () => void;
}

/** Runs a command to its end. */
export async function exec(
  client: AgentClient,
  sandboxId: string,
  command: string[],
  options: ExecOptions = {},
): Promise<Executed> {
  const { user = '', stdin, timeoutMs, signal, onStarted } = options;
  async function* requests(): AsyncGenerator<ExecRequest> {
    const timeout = timeoutMs === undefined ? undefined : durationFromMs(timeoutMs);
    const start = { sandboxId, command, user, stdin: stdin !== undefined, ...(timeout && { timeout }) };
    yield create(ExecRequestSchema, { message: { case: 'start', value: start } });
    for await (const value of stdin ?? []) {
      yield create(ExecRequestSchema, { message: { case: 'stdin', value } });
    }
  }
  const output = { stdout: '', stderr: '' };
  for await (const { message } of client.guest.exec(requests(), signal === undefined ? {} : { signal })) {
    if (message.case === 'started') onStarted?.();
    if (message.case === 'stdout' || message.case === 'stderr') {
      output[message.case] += Buffer.from(message.value).toString();
    }
    if (message.case === 'exited') return { ...output, exitCode: message.value.exitCode };
  }
  throw new Error('the command did not tell how it ended');
}

export async function createSandbox(
  client: AgentClient,
  change: MessageInitShape<typeof CreateSandboxRequestSchema> = {},
): Promise<Sandbox> {
  const { sandbox } = await client.sandboxes.createSandbox({ ...REQUEST, ...change });
  if (sandbox === undefined) throw new Error('the agent answered without a sandbox');
  return sandbox;
}

/** The code of the error that the work fails with. */
export async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'no error';
  } catch (error) {
    return fromConnectError(error).code;
  }
}

/** Looks once more when the time is over: who stood still until then has not seen what came about meanwhile. */
export async function until(
  what: string,
  deadlineMs: number,
  condition: () => Promise<boolean>,
): Promise<number> {
  const startedAt = performance.now();
  for (;;) {
    const isLate = performance.now() - startedAt > deadlineMs * PATIENCE;
    if (await condition()) return performance.now() - startedAt;
    if (isLate) throw new Error(`${what}: not within ${deadlineMs * PATIENCE} ms`);
    await sleep(10);
  }
}

/** Throws where there is none: 0 would be this process and its kin. */
export function killVmm(pid: number): void {
  if (pid <= 0) throw new Error('there is no VMM to kill');
  process.kill(pid, 'SIGKILL');
}
