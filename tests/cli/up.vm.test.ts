/** `wrenn up` as a user has it: with a certificate made on the spot, and with its processes dying under it. */
import { type ChildProcess, execFile, execFileSync } from 'node:child_process';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createFixture, type Fixture, leftovers } from './wrenn.ts';

const PORT = 3919;
const DOMAIN = `wrenn.localhost:${PORT}`;
const CLIENT = fileURLToPath(new URL('fixtures/sdk-client.mjs', import.meta.url));
const START_MS = 60_000;

let wrenn: Fixture;
let up: { readonly child: ChildProcess; readonly said: () => string; readonly log: () => string } | undefined;

beforeAll(() => {
  wrenn = createFixture();
  // The API is another user.
  chmodSync(wrenn.directory, 0o711);
  const socketPath = join(wrenn.directory, 'state/agent.sock');
  const dataDir = join(wrenn.directory, 'api/store');
  const config = { listen: { port: PORT }, store: { dataDir }, agent: { socketPath } };
  writeFileSync(join(wrenn.directory, 'api.json'), JSON.stringify(config));
});
afterAll(async () => {
  up?.child.kill('SIGTERM');
  await wrenn.close();
});

async function startUp(...options: readonly string[]): Promise<ReturnType<typeof variablesOf>> {
  const child = wrenn.start(['up', ...options], { WRENN_API_CONFIG: join(wrenn.directory, 'api.json') });
  let [said, log] = ['', ''];
  child.stdout.on('data', (chunk) => {
    said += chunk;
  });
  child.stderr.on('data', (chunk) => {
    log += chunk;
  });
  up = { child, said: () => said, log: () => log };
  await expect.poll(() => log, { timeout: START_MS }).toMatch(/INFO {2}up +ready/);
  return variablesOf(said);
}

async function endUp(): Promise<number | null> {
  const ended = new Promise<number | null>((resolve) => up?.child.once('close', resolve));
  up?.child.kill('SIGTERM');
  return await ended;
}

function variablesOf(said: string): Record<string, string> {
  const found = [...said.matchAll(/^(?:# )?export (\w+)=(.+)$/gm)];
  return Object.fromEntries(found.map(([, name = '', value = '']) => [name, value]));
}

async function client(
  env: Readonly<Record<string, string>>,
  ...words: readonly string[]
): Promise<Record<string, unknown>> {
  const whole = { PATH: process.env.PATH ?? '', ...env };
  const { stdout } = await promisify(execFile)(process.execPath, [CLIENT, ...words], {
    env: whole,
    timeout: 60_000,
  });
  return JSON.parse(stdout);
}

function pidOf(word: string): number {
  const children = execFileSync('ps', ['-o', 'pid,args', '--ppid', String(up?.child.pid)], {
    encoding: 'utf8',
  });
  return Number(new RegExp(`^ *(\\d+) .* ${word} `, 'm').exec(children)?.[1]);
}

it('serves the SDK over HTTP/2, and loses no sandbox when its processes die', async () => {
  const told = await startUp('--tls');
  const { E2B_API_KEY: key = '', NODE_EXTRA_CA_CERTS: trusted = '', ...urls } = told;
  expect(urls).toMatchObject({
    E2B_API_URL: `https://127.0.0.1:${PORT}`,
    E2B_SANDBOX_URL: `https://127.0.0.1:${PORT}`,
    E2B_DOMAIN: DOMAIN,
  });
  const env = { E2B_API_KEY: key, NODE_EXTRA_CA_CERTS: trusted, E2B_DOMAIN: DOMAIN };
  const made = await client(env, 'create');
  expect(made).toMatchObject({ said: '42', read: 4_000_000 });
  expect(made.cut).not.toBe('a clean end');
  expect(made.connections).toBeGreaterThan(0);
  const id = String(made.id);
  expect(made.host).toBe(`80-${id}.${DOMAIN}`);

  const byUrl = { E2B_API_KEY: key, NODE_EXTRA_CA_CERTS: trusted, ...urls, E2B_DOMAIN: '' };
  for (const [word, ended] of [
    ['api', 'wrenn api was ended by SIGKILL'],
    ['agent', 'wrenn agent was ended by SIGKILL'],
  ] as const) {
    process.kill(pidOf(word), 'SIGKILL');
    await expect.poll(() => up?.log(), { timeout: START_MS }).toContain(ended);
    await expect
      .poll(() => client(byUrl, 'use', id).catch(() => undefined), { timeout: START_MS, interval: 500 })
      .toMatchObject({ said: '42' });
  }
  // No key is in the log, and it is told once.
  expect(up?.log()).not.toContain(key);
  expect(up?.said().split(key)).toHaveLength(2);

  expect(await endUp()).toBe(0);
  expect(leftovers(join(wrenn.directory, 'state')).join('\n')).toContain(id);
  const again = await startUp();
  expect(again.E2B_API_KEY).toBeUndefined();
  expect(again.E2B_API_URL).toBe(`http://127.0.0.1:${PORT}`);
  expect(await client({ ...again, E2B_API_KEY: key }, 'kill', id)).toMatchObject({ killed: true });
  expect(await endUp()).toBe(0);
});

it('tells why it cannot start', async () => {
  await startUp();
  const second = await wrenn.run(['up'], undefined, { WRENN_API_CONFIG: join(wrenn.directory, 'api.json') });
  expect(second).toMatchObject({ code: 4, stdout: '' });
  expect(second.stderr).toContain('Another process uses this store already.');
  // As through a program that passes it on: one signal that comes twice is no hurry.
  up?.child.kill('SIGINT');
  expect(await endUp()).toBe(0);
  expect(up?.log()).toContain('stopped');
  expect(up?.log()).not.toContain('SIGKILL');
  const empty = join(wrenn.directory, 'empty.json');
  writeFileSync(empty, JSON.stringify({ wrennDir: join(wrenn.directory, 'none') }));
  const notSetUp = await wrenn.run(['up'], undefined, { WRENN_CONFIG: empty });
  expect(notSetUp).toMatchObject({ code: 4, stdout: '' });
  expect(notSetUp.stderr).toMatch(/not set up[\s\S]*hint: wrenn setup/);
});

it('ends where its agent does not start, and when it is told to while that starts', async () => {
  const more = { WRENN_API_CONFIG: join(wrenn.directory, 'api.json') };
  const ended = async (child: ChildProcess): Promise<number | null> => {
    const late = setTimeout(() => child.kill('SIGKILL'), START_MS);
    const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
    clearTimeout(late);
    return code;
  };
  // Nobody can listen below a file.
  const broken = { ...more, WRENN_SOCKET: join(wrenn.directory, 'api.json/agent.sock') };
  expect(await ended(wrenn.start(['up'], broken))).toBe(4);
  const told = wrenn.start(['up'], more);
  await new Promise((resolve) => told.stderr.once('data', resolve));
  told.kill('SIGTERM');
  expect(await ended(told)).toBe(0);
});

it('takes the place of an agent that a command had started, once that ends', async () => {
  expect(await wrenn.run(['sandbox', 'ls'])).toMatchObject({ code: 0 });
  await startUp();
  expect(up?.log()).toContain('using the host agent that a command has started');
  const pid = Number(readFileSync(join(wrenn.directory, 'state/agent.lock'), 'utf8'));
  process.kill(pid, 'SIGKILL');
  await expect.poll(() => pidOf('agent'), { timeout: START_MS }).toBeGreaterThan(0);
  expect(await wrenn.run(['sandbox', 'ls'])).toMatchObject({ code: 0 });
  expect(await endUp()).toBe(0);
});
