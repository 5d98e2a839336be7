/** The built command line as a child process, with an agent and a state directory of its own. */
import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
export const CLI = join(ROOT, 'packages/cli/bin/wrenn.mjs');

export interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Fixture {
  readonly directory: string;
  readonly env: Readonly<Record<string, string>>;
  run(
    args: readonly string[],
    input?: string | Buffer,
    more?: Readonly<Record<string, string>>,
  ): Promise<Result>;
  start(args: readonly string[], more?: Readonly<Record<string, string>>): ChildProcessWithoutNullStreams;
  /** Ends the agent; fails when anything of a sandbox is left. */
  close(): Promise<void>;
}

const AGENT_END_MS = 15_000;

export function createFixture(options: { readonly imagesDir?: string } = {}): Fixture {
  const directory = mkdtempSync(join(tmpdir(), 'wrenn-cli-'));
  const state = join(directory, 'state');
  mkdirSync(state);
  const config = join(directory, 'config.json');
  // A range and names of its own: an agent of this machine is not disturbed.
  writeFileSync(
    config,
    JSON.stringify({
      wrennDir: state,
      imagesDir: options.imagesDir ?? process.env.WRENN_DIR ?? '/var/lib/wrenn',
      defaults: { template: 'minimal', memoryMib: 384 },
      network: { range: '10.119.0.0/16', prefix: 'wcli', holdOffMs: 0, readySlots: 0 },
      // The agent's own sandboxes come and go when it likes; here every one that is left behind counts.
      warm: { mode: 'off' },
    }),
  );
  const env = {
    PATH: process.env.PATH ?? '',
    HOME: process.env.HOME ?? '/root',
    WRENN_CONFIG: config,
    TERM: 'xterm',
  };
  const start: Fixture['start'] = (args, more = {}) =>
    spawn(process.execPath, [CLI, ...args], { env: { ...env, ...more }, stdio: 'pipe' });
  return {
    directory,
    env,
    start,
    async run(args, input, more) {
      const child = start(args, more);
      const [stdout, stderr] = [collect(child.stdout), collect(child.stderr)];
      child.stdin.on('error', () => {});
      child.stdin.end(input);
      const code = await new Promise<number>((resolve) => child.once('close', (exit) => resolve(exit ?? -1)));
      return { code, stdout: stdout(), stderr: stderr() };
    },
    async close() {
      const left = leftovers(state);
      await endAgent(state);
      rmSync(directory, { recursive: true });
      if (left.length > 0) throw new Error(`left behind: ${left.join(', ')}`);
    },
  };
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  return () => Buffer.concat(chunks).toString('utf8');
}

/** Links, namespaces and VMMs with this fixture's names. */
export function leftovers(state: string): string[] {
  const links = execFileSync('ip', ['-o', 'link'], { encoding: 'utf8' }).match(/wcli[-\w]*/g) ?? [];
  const namespaces = execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' }).match(/wcli[-\w]*/g) ?? [];
  const processes = execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.includes(`${state}/sandboxes`));
  return [...links, ...namespaces, ...processes];
}

async function endAgent(state: string): Promise<void> {
  const pids = execFileSync('ps', ['-eo', 'pid,args'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.includes(`--log-file ${join(state, 'agent.log')}`))
    .map((line) => Number(line.trim().split(/\s+/)[0]));
  for (const pid of pids.filter(isRunning)) process.kill(pid, 'SIGTERM');
  const deadline = Date.now() + AGENT_END_MS;
  for (const pid of pids) {
    while (isRunning(pid)) {
      if (Date.now() > deadline)
        throw new Error(`the agent did not end: ${readFileSync(join(state, 'agent.log'), 'utf8')}`);
      await sleep(50);
    }
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
