/** Three sandboxes at once, each with its own network, disk and processes. */
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

const inEach = (script: string) =>
  Promise.all(sandboxes.map(async ({ id }) => (await exec(client, id, ['sh', '-c', script])).stdout.trim()));

it('each has its own disk, processes, environment and name', async () => {
  await inEach('echo $NUMBER > /tmp/mine; sleep 1000 > /dev/null 2>&1 &');
  expect(await inEach('cat /tmp/mine; pgrep -cx sleep; hostname')).toEqual(
    sandboxes.map(({ id }, i) => `${i + 1}\n1\n${id}`),
  );
  expect(new Set(sandboxes.map(({ address }) => address)).size).toBe(3);
  expect(new Set(sandboxes.map(({ vmmPid }) => vmmPid)).size).toBe(3);
});

it('none reaches another, nor the host', async () => {
  const others = sandboxes.map(({ address }) => address);
  const host = (others[0] ?? '').replace(/\d+$/, '0');
  for (const target of [...others, host, '169.254.169.254', '169.254.0.22']) {
    const reached = await inEach(
      `timeout 2 bash -c 'exec 3<>/dev/tcp/${target}/49983' 2>/dev/null && echo reached || echo refused`,
    );
    expect(reached, target).toEqual(['refused', 'refused', 'refused']);
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
