/** A host agent and, as a process without privileges, the API in front of it; with names and a certificate for SDKs. */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { createServer, type Server } from 'node:tls';
import { runCommand } from '@wrenn/host';
import { CLI } from '../cli/wrenn.ts';
import { type AgentProcess, prepareAgent, remains, startAgentProcess } from '../e2e/agent-fixture.ts';

/** Names below it lead here for those who ask names.ts. */
export const DOMAIN = 'sandboxes.test';

export interface SdkServer {
  /** What the API and the edge are under, by plain HTTP. */
  readonly url: string;
  readonly key: string;
  /** With the port that TLS is on. */
  readonly domain: string;
  /** PEM. */
  readonly certificate: string;
  readonly pid: number;
  /** Of the embedded store. */
  readonly dataDir: string;
  /** Takes all away; fails when anything of a sandbox is left. */
  close(): Promise<void>;
}

/** Whose the API is when root starts it; its group may use the agent's socket. */
const API_UID = 1_899_999_999;
const START_MS = 60_000;
const POOLED = 2;

export interface SdkServerOptions {
  /** Of a PostgreSQL server; the store is embedded else. */
  readonly databaseUrl?: string;
}

export async function startServer(number: number, options: SdkServerOptions = {}): Promise<SdkServer> {
  const files = await prepareAgent(number, {
    warm: { mode: 'auto' },
    pool: { entries: [{ template: 'base', size: POOLED }] },
    server: { socketGid: API_UID },
  });
  const undo: (() => Promise<unknown>)[] = [files.remove];
  const close = async (): Promise<void> => {
    const failures: unknown[] = [];
    // Whatever one of them says, the rest is taken away.
    for (const each of undo.reverse()) await each().catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw failures[0];
  };
  try {
    await chmod(files.dir, 0o711);
    const agent = await startAgentProcess(files);
    undo.push(() => endAgent(agent, () => remains(files)));
    await agent.client.sandboxes.warmTemplate({ template: 'base' });
    const { key: tlsKey, certificate } = await makeCertificate(files.dir);
    const sockets = new Set<Socket>();
    let plainPort = 0;
    const tls = createServer({ key: tlsKey, cert: certificate }, (client) => {
      const plain = connect(plainPort, '127.0.0.1');
      sockets.add(plain);
      plain.once('close', () => sockets.delete(plain) && client.destroy());
      client.once('close', () => plain.resetAndDestroy());
      for (const socket of [plain, client]) socket.on('error', () => {});
      client.pipe(plain).pipe(client);
    });
    undo.push(() => endTls(tls, sockets));
    const domain = `${DOMAIN}:${await listen(tls)}`;
    const config = join(files.dir, 'api.json');
    const store = { dataDir: join(files.dir, 'api/store') };
    await writeFile(config, JSON.stringify({ listen: { port: 0 }, domain, store, logLevel: 'warn' }));
    const own = { WRENN_API_CONFIG: config, WRENN_SOCKET: files.socketPath };
    const database = options.databaseUrl === undefined ? {} : { DATABASE_URL: options.databaseUrl };
    const api = spawn(process.execPath, [CLI, 'api'], {
      env: { PATH: process.env.PATH, ...own, ...database },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    undo.push(() => endProcess(api));
    const told = await exportsOf(api);
    const url = told.get('E2B_API_URL') ?? '';
    plainPort = Number(new URL(url).port);
    const key = told.get('E2B_API_KEY') ?? '';
    return { url, key, domain, certificate, pid: api.pid ?? 0, dataDir: store.dataDir, close };
  } catch (error) {
    await close().catch(() => {});
    throw error;
  }
}

/** What it prints for shells to read. */
async function exportsOf(api: ChildProcess): Promise<ReadonlyMap<string, string>> {
  let text = '';
  return await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`the API did not start: ${text}`)), START_MS);
    api.once('exit', (code) => reject(new Error(`the API ended with ${code}: ${text}`)));
    api.stdout?.on('data', (chunk: Buffer) => {
      text += chunk;
      const found = new Map(
        [...text.matchAll(/^export (\w+)=(.*)$/gm)].map(([, name = '', value = '']) => [name, value]),
      );
      if (!found.has('E2B_API_KEY')) return;
      clearTimeout(timer);
      resolve(found);
    });
  });
}

async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) throw new Error(`the API ended by itself, with ${child.exitCode}`);
  const ended = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)));
  child.kill('SIGTERM');
  const code = await ended;
  if (code !== 0) throw new Error(`the API ended with ${code}`);
}

async function endAgent(agent: AgentProcess, left: () => Promise<string[]>): Promise<void> {
  const { sandboxes, snapshots } = {
    sandboxes: (await agent.client.sandboxes.listSandboxes({})).sandboxes,
    snapshots: (await agent.client.sandboxes.listSnapshots({})).snapshots,
  };
  const forgotten = [...sandboxes.map(({ id }) => id), ...snapshots.map(({ id }) => id)];
  await Promise.all(sandboxes.map(({ id }) => agent.client.sandboxes.destroySandbox({ id })));
  await agent.kill('SIGTERM');
  const remaining = await left();
  if (remaining.length > 0) throw new Error(`left behind: ${remaining.join(', ')}`);
  if (forgotten.length > 0) throw new Error(`the tests left sandboxes or snapshots: ${forgotten.join(', ')}`);
}

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

async function endTls(server: Server, sockets: ReadonlySet<Socket>): Promise<void> {
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
}

async function makeCertificate(dir: string): Promise<{ key: string; certificate: string }> {
  const tlsDir = join(dir, 'tls');
  await mkdir(tlsDir, { mode: 0o700 });
  const words = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-days',
    '2',
  ];
  const names = `subjectAltName=DNS:*.${DOMAIN},DNS:${DOMAIN}`;
  const { stdout } = await runCommand(
    'openssl',
    [...words, '-subj', `/CN=${DOMAIN}`, '-addext', names, '-keyout', '-'],
    {
      timeoutMs: 10_000,
    },
  );
  const key = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/.exec(stdout)?.[0] ?? '';
  const certificate = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/.exec(stdout)?.[0] ?? '';
  return { key, certificate };
}
