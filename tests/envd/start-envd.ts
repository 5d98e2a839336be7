/** Builds and starts a real envd for tests. Everything it opens is on the loopback interface. */
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { hasErrno } from '@wrenn/host';
import { Sandbox } from 'e2b';

const ROOT = join(import.meta.dirname, '../..');
const BUN = join(ROOT, 'node_modules/@oven/bun-linux-x64-baseline/bin/bun');
const OUTPUT = join(ROOT, 'packages/guest/envd/dist');
const SOURCES = ['packages/guest/envd/src', 'packages/protocol/src', 'package-lock.json'];
const START_DEADLINE_MS = 10_000;
const STOP_DEADLINE_MS = 5_000;
const END_KNOWN_MS = 1_000;
/** Long enough for other tests that have just looked up the same build. */
const BUILD_KEPT_MS = 10 * 60_000;

/** How init starts envd in an emulated guest: without run-time code and without the idle collector's timer. */
export const GUEST_ENVIRONMENT = {
  BUN_JSC_useBaselineJIT: '0',
  BUN_JSC_useDFGJIT: '0',
  BUN_JSC_useRegExpJIT: '0',
  BUN_GC_TIMER_DISABLE: '1',
} as const;

export interface Envd {
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  /** What envd has written to its log so far. */
  log(): string;
  /** The most memory it ever held. */
  peakRssBytes(): number;
  rssBytes(): number;
  /** Open descriptors other than sockets, which clients may keep alive. */
  openFiles(): number;
  /** POST /init. */
  init(body: InitBody, headers?: Record<string, string>): Promise<Response>;
  /** An unmodified SDK, connected to this envd. */
  sandbox(): Promise<Sandbox>;
  stop(): Promise<void>;
}

export interface InitBody {
  readonly accessToken?: string;
  readonly [field: string]: unknown;
}

export interface EnvdOptions {
  readonly defaultUser?: string;
  readonly args?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  /** A program and its arguments that becomes envd: it is given envd's own command line behind them. */
  readonly through?: readonly string[];
}

export async function startEnvd(options: EnvdOptions = {}): Promise<Envd> {
  const executable = await buildEnvd();
  const user = options.defaultUser ?? process.env.USER ?? 'root';
  const envdArgs = ['--host', '127.0.0.1', '--port', '0', '--default-user', user, ...(options.args ?? [])];
  const [program = executable, ...args] = [...(options.through ?? []), executable, ...envdArgs];
  const child = spawn(program, args, {
    env: { PATH: process.env.PATH ?? '', ...GUEST_ENVIRONMENT, ...options.environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let log = '';
  let url: string | undefined;
  let token: string | undefined;
  const append = (text: string) => {
    log = (log + text).slice(-64 * 1024);
  };
  child.stderr.setEncoding('utf8').on('data', append);
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const stop = async () => {
    try {
      await killStarted().catch(async (error: unknown) => {
        // One that has ended answers no more. That it has may be known a moment later.
        await Promise.race([exited, sleep(END_KNOWN_MS)]);
        if (child.exitCode === null && child.signalCode === null) throw error;
      });
    } finally {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_DEADLINE_MS);
      await exited;
      clearTimeout(timer);
    }
  };
  /** What it started outlives it, by design; not so in tests. */
  const killStarted = async () => {
    if (url === undefined) return;
    const response = await fetch(`${url}/process.Process/List`, {
      method: 'POST',
      headers: {
        'Content-Type': 'application/json',
        ...(token === undefined ? {} : { 'X-Access-Token': token }),
      },
      body: '{}',
    });
    const list = (await response.json()) as { processes?: { pid: number }[] };
    for (const { pid } of list.processes ?? []) killGroup(pid);
  };
  const port = await listeningPort(child.stdout, append).catch(async (error: unknown) => {
    await stop();
    throw new Error(`envd did not start: ${log}`, { cause: error });
  });
  const pid = child.pid ?? 0;
  const base = `http://127.0.0.1:${port}`;
  url = base;
  const status = (field: string) => {
    const [, kibibytes] =
      new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
    return Number(kibibytes) * 1024;
  };
  return {
    url: base,
    port,
    pid,
    stop,
    log: () => log,
    peakRssBytes: () => status('VmHWM'),
    rssBytes: () => status('VmRSS'),
    openFiles: () => readdirSync(`/proc/${pid}/fd`).filter((fd) => !isSocket(pid, fd)).length,
    init: async (body, headers = {}) => {
      const response = await fetch(`${base}/init`, { method: 'POST', body: JSON.stringify(body), headers });
      if (response.ok) token = body.accessToken ?? token;
      return response;
    },
    sandbox: () => Sandbox.create({ debug: true, sandboxUrl: base }),
  };
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    // It has ended since it was listed.
    if (!hasErrno(error, 'ESRCH')) throw error;
  }
}

function isSocket(pid: number, fd: string): boolean {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith('socket:');
  } catch {
    return true; // closed since it was listed
  }
}

async function listeningPort(stdout: NodeJS.ReadableStream, append: (text: string) => void): Promise<number> {
  const lines = createInterface({ input: stdout });
  return await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('no port within the deadline')), START_DEADLINE_MS);
    lines.on('line', (line) => {
      append(`${line}\n`);
      const [, port] = /^envd: listening on .*:(\d+)$/.exec(line) ?? [];
      if (port === undefined) return;
      clearTimeout(timer);
      resolve(Number(port));
    });
    lines.once('close', () => {
      clearTimeout(timer);
      reject(new Error('it ended'));
    });
  });
}

/** The executable, named after the hash of its sources; built once for each of them. */
export async function buildEnvd(): Promise<string> {
  const hash = createHash('sha256');
  for (const file of SOURCES.flatMap(filesUnder)) hash.update(file).update(readFileSync(join(ROOT, file)));
  const executable = join(OUTPUT, `envd-test-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(executable)) return executable;
  mkdirSync(OUTPUT, { recursive: true });
  // Several test files may build at the same time: each its own file, and the last rename wins.
  const temporary = `${executable}.${process.pid}`;
  const main = 'packages/guest/envd/src/main.ts';
  const args = ['build', '--compile', '--minify', '--bytecode', main, '--outfile', temporary];
  await promisify(execFile)(BUN, args, { cwd: ROOT });
  renameSync(temporary, executable);
  removeOldBuilds();
  return executable;
}

/** Each has 110 MB. One that is still running may go too: its pages stay until it ends. */
function removeOldBuilds(): void {
  for (const name of readdirSync(OUTPUT).filter((file) => file.startsWith('envd-test-'))) {
    const path = join(OUTPUT, name);
    const builtAtMs = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
    if (Date.now() - builtAtMs > BUILD_KEPT_MS) rmSync(path, { force: true });
  }
}

function filesUnder(path: string): string[] {
  const entries = path.includes('.') ? undefined : readdirSync(join(ROOT, path), { withFileTypes: true });
  if (entries === undefined) return [path];
  return entries
    .filter((entry) => !entry.name.endsWith('.test.ts') && !entry.name.endsWith('.md'))
    .flatMap((entry) => (entry.isDirectory() ? filesUnder(join(path, entry.name)) : [join(path, entry.name)]))
    .sort();
}
