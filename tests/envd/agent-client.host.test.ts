/** The agent's client against a real envd: what the unit tests' hostile guests are measured against. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createEnvdClient, type EnvdClient } from '../../packages/agent/src/envd-client/client.ts';
import { type Envd, startEnvd } from './start-envd.ts';

const never = new AbortController().signal;
const user = userInfo().username;
let envd: Envd;
let client: EnvdClient;
let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'wrenn-client-'));
  envd = await startEnvd();
  client = createEnvdClient({
    host: '127.0.0.1',
    port: envd.port,
    accessToken: 'token-of-this-test',
    requestTimeoutMs: 10_000,
    stallMs: 10_000,
  });
});

afterAll(async () => {
  client?.close();
  await envd?.stop();
  await rm(dir, { recursive: true, force: true });
});

async function run(command: string[]): Promise<{ output: string; status: string }> {
  let output = '';
  const start = { command, envs: {}, cwd: dir, user, terminal: undefined, stdin: false };
  for await (const { event } of client.startProcess(start, never)) {
    if (event.case === 'data') output += Buffer.from(event.value.output.value ?? []).toString();
    if (event.case === 'end') return { output, status: event.value.status };
  }
  throw new Error('no end');
}

it('finds it healthy, hands over its settings, and is the only one that may speak to it then', async () => {
  await client.waitUntilHealthy(5000, never);
  const settings = { envs: { FROM_INIT: 'yes' }, defaultUser: user, defaultWorkdir: dir };
  await client.init(settings, never);
  await client.init(settings, never);
  expect(await run(['sh', '-c', 'echo $FROM_INIT'])).toEqual({ output: 'yes\n', status: 'exit status 0' });
  const stranger = createEnvdClient({
    host: '127.0.0.1',
    port: envd.port,
    accessToken: 'another',
    requestTimeoutMs: 5000,
    stallMs: 5000,
  });
  await expect(stranger.stat('/', undefined, never)).rejects.toMatchObject({ code: 'user_not_found' });
  await expect(stranger.init(settings, never)).rejects.toMatchObject({ code: 'guest_protocol' });
  stranger.close();
});

it('feeds a process, until that takes no more', async () => {
  const start = { command: ['head', '-c', '5'], envs: {}, cwd: dir, user, terminal: undefined, stdin: true };
  let output = '';
  const taken: boolean[] = [];
  for await (const { event } of client.startProcess(start, never)) {
    if (event.case === 'start') {
      taken.push(await client.sendInput(event.value.pid, 'stdin', Buffer.from('hello world'), never));
    }
    if (event.case === 'data') output += Buffer.from(event.value.output.value ?? []).toString();
    if (event.case === 'end') taken.push(await client.sendInput(1, 'stdin', Buffer.from('x'), never));
  }
  expect({ output, taken }).toEqual({ output: 'hello', taken: [true, false] });
});

it('carries files there and back, and tells what goes wrong', async () => {
  const path = join(dir, 'deep/file with ünicode & more');
  const part = Buffer.alloc(300_000, 'abc');
  async function* source() {
    for (let i = 0; i < 10; i++) yield part;
  }
  expect(await client.writeFile(path, user, source(), never)).toBe(path);
  let sizeBytes = 0;
  for await (const chunk of await client.readFile(path, user, never)) sizeBytes += chunk.length;
  expect(sizeBytes).toBe(3_000_000);
  expect(await client.stat(path, user, never)).toMatchObject({ size: 3_000_000n });
  expect(await client.list(dir, 2, user, never)).toHaveLength(2);
  await client.remove(path, user, never);
  await expect(client.readFile(path, user, never)).rejects.toMatchObject({ code: 'file_not_found' });
  await expect(client.stat(path, user, never)).rejects.toMatchObject({ code: 'file_not_found' });
  await expect(client.readFile(dir, user, never)).rejects.toMatchObject({ code: 'invalid_path' });
  await expect(client.readFile(path, 'nobody-here', never)).rejects.toMatchObject({ code: 'user_not_found' });
});
