/** Three sandboxes at once, each with its own network, disk and processes. */
import { createServer } from 'node:net';
import {
  type AgentClient,
  createAgentClient,
  parseConfig,
  type RunningAgent,
  startAgent,
} from '@wrenn/agent';
import type { Sandbox } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createSandbox, exec, prepareAgent, remains, type TestAgentFiles } from './agent-fixture.ts';

let files: TestAgentFiles;
let agent: RunningAgent;
let client: AgentClient;
let sandboxes: Sandbox[];

beforeAll(async () => {
  files = await prepareAgent(4);
  agent = await startAgent({ config: parseConfig(files.config) });
  client = createAgentClient({ socketPath: agent.socketPath });
  sandboxes = await Promise.all([1, 2, 3].map((n) => createSandbox(client, { envs: { NUMBER: String(n) } })));
});

afterAll(async () => {
  client?.close();
  await agent?.stop();
  await files?.remove();
});

function neighbours(address: string): string[] {
  const last = Number(address.split('.')[3]);
  return [last - 1, last + 1].map((n) => address.replace(/\d+$/, String(n)));
}

const inEach = (script: string, shell = ['sh', '-c'], user = '') =>
  Promise.all(
    sandboxes.map(async ({ id }) => (await exec(client, id, [...shell, script], { user })).stdout.trim()),
  );

it('each has its own disk, processes, environment and name', async () => {
  await inEach('echo $NUMBER > /tmp/mine; sleep 1000 > /dev/null 2>&1 &');
  expect(await inEach('cat /tmp/mine; pgrep -cx sleep; hostname')).toEqual(
    sandboxes.map(({ id }, i) => `${i + 1}\n1\n${id}`),
  );
  expect(new Set(sandboxes.map(({ address }) => address)).size).toBe(3);
  expect(new Set(sandboxes.map(({ vmmPid }) => vmmPid)).size).toBe(3);
});

it('none reaches another, nor the host', async () => {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => server.listen(0, '0.0.0.0', resolve));
  const address = server.address();
  const hostPort = typeof address === 'object' && address !== null ? address.port : 0;
  try {
    const guests = sandboxes.map((sandbox) => `${sandbox.address}/49983`);
    // A slot's two addresses are neighbours: one of these is the host's end.
    const ends = sandboxes.flatMap((sandbox) => neighbours(sandbox.address));
    const hosts = [...ends, '169.254.0.22'].map((end) => `${end}/${hostPort}`);
    const targets = ['127.0.0.1/49983', ...guests, ...hosts, '169.254.169.254/80'];
    // One retry after a second: a connection that nobody answers is given up after three.
    const script = `
      echo 1 > /proc/sys/net/ipv4/tcp_syn_retries
      for target in ${targets.join(' ')}; do (exec 3<>/dev/tcp/$target && echo $target) 2>/dev/null & done
      wait`;
    // Only itself: which also shows that reaching something would be seen.
    const reached = await inEach(script, ['bash', '-c'], 'root');
    expect(reached).toEqual(['127.0.0.1/49983', '127.0.0.1/49983', '127.0.0.1/49983']);
  } finally {
    server.close();
  }
});

it('the end of one is not the end of the others', async () => {
  const [first, ...rest] = sandboxes;
  await client.sandboxes.destroySandbox({ id: first?.id ?? '' });
  sandboxes = rest;
  expect(await inEach('cat /tmp/mine')).toEqual(['2', '3']);
  for (const { id } of rest) await client.sandboxes.destroySandbox({ id });
  expect(await remains(files)).toEqual([]);
});
