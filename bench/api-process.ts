/** The API as a program of a measurement's own, on an agent's socket, with an embedded store that begins empty. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';

export interface ApiProcess {
  readonly url: string;
  readonly apiKey: string;
  readonly pid: number;
  /** Resolves with the exit code and how long it took. */
  stop(): Promise<{ readonly code: number | null; readonly tookMs: number }>;
}

const PROGRAM = `
  import { createApi, createApiLogger, openStore, parseApiConfig, tuneHeap } from '@wrenn/api';
  tuneHeap();
  const config = parseApiConfig(JSON.parse(process.argv[2]));
  const store = await openStore(config.store);
  const { secret } = await store.keys.create({ name: 'measurement', admin: true });
  const api = createApi(config, { store, log: createApiLogger(config.logLevel), version: 'measured' });
  process.once('SIGTERM', () => api.close());
  const { port } = await api.listen();
  process.stdout.write(JSON.stringify({ port, secret }) + '\\n');
`;

/** From the checkout's root, which is where measurements run. */
const PROGRAMS_DIR = 'bench/dist/programs';

/** `entry`: a file, or else the program itself. Runs with what is installed in the checkout. */
export async function bundleProgram(
  name: string,
  from: { readonly entry: string } | { readonly contents: string },
): Promise<string> {
  await mkdir(PROGRAMS_DIR, { recursive: true });
  const outfile = join(process.cwd(), PROGRAMS_DIR, `${name}-${process.pid}.mjs`);
  await build({
    ...('entry' in from
      ? { entryPoints: [from.entry] }
      : { stdin: { contents: from.contents, resolveDir: join(process.cwd(), 'packages/cli') } }),
    outfile,
    bundle: true,
    platform: 'node',
    target: 'node20.19',
    format: 'esm',
    logLevel: 'error',
    external: ['@electric-sql/pglite', 'pg', 'fastify', 'e2b'],
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
    },
  });
  return outfile;
}

export async function startApiProcess(
  dir: string,
  socketPath: string,
  nodeOptions: readonly string[] = [],
): Promise<ApiProcess> {
  const program = await bundleProgram('api', { contents: PROGRAM });
  const config = {
    listen: { port: 0 },
    agent: { socketPath },
    store: { dataDir: join(dir, 'api-store') },
    keyLimits: { maxSandboxes: 1000, createsPerMinute: 10_000 },
    logLevel: 'warn',
  };
  const child: ChildProcess = spawn(process.execPath, [...nodeOptions, program, JSON.stringify(config)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { PATH: process.env.PATH },
    // Ctrl+C is for the measurement, which ends things in their order.
    detached: true,
  });
  const ended = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)));
  if (child.stdout === null) throw new Error('The API has no output.');
  const [said] = await Promise.race([
    once(child.stdout, 'data'),
    ended.then((code) => Promise.reject(new Error(`The API ended with ${code} before it listened.`))),
  ]);
  const { port, secret }: { port: number; secret: string } = JSON.parse(String(said));
  let stopping: ReturnType<ApiProcess['stop']> | undefined;
  const stop = async () => {
    const startedAt = performance.now();
    child.kill('SIGTERM');
    const code = await ended;
    const tookMs = performance.now() - startedAt;
    await rm(program, { force: true });
    return { code, tookMs };
  };
  return {
    url: `http://127.0.0.1:${port}`,
    apiKey: secret,
    pid: child.pid ?? 0,
    stop: () => {
      stopping ??= stop();
      return stopping;
    },
  };
}
