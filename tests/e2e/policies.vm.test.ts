/** What a sandbox may reach and what becomes of it at its end are its own, wherever it goes. */
import { execFileSync } from 'node:child_process';
import { SandboxState, TimeoutAction } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  type AgentProcess,
  codeOf,
  createSandbox,
  exec,
  PATIENCE,
  prepareAgent,
  remains,
  startAgentProcess,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

let files: TestAgentFiles;
let agent: AgentProcess;

beforeAll(async () => {
  files = await prepareAgent(9);
  agent = await startAgentProcess(files);
});

afterAll(async () => {
  // Not by force: its table of rules goes with it.
  await agent?.kill('SIGTERM');
  await files?.remove();
});

/** Of every namespace of this agent, what its rules refuse. */
function refused(): string[] {
  const listed: unknown = JSON.parse(
    execFileSync('ip', ['-json', 'netns', 'list'], { encoding: 'utf8' }) || '[]',
  );
  const names = (listed as { name: string }[])
    .map(({ name }) => name)
    .filter((name) => name.startsWith(files.prefix));
  return names.map((name) => {
    const args = ['netns', 'exec', name, 'nft', 'list', 'set', 'inet', 'slot', 'refused'];
    const text = execFileSync('ip', args, { encoding: 'utf8' });
    return /elements = \{ ([^}]*?) \}/.exec(text)?.[1] ?? 'nothing';
  });
}

it('has its rules from the start, gets others, and keeps them in copies, asleep and without an agent', async () => {
  const network = { denyOut: ['198.51.100.0/24'], allowOut: ['198.51.100.7'] };
  const { id } = await createSandbox(agent.client, { network });
  expect(refused()).toEqual(['198.51.100.0/24']);
  expect(await exec(agent.client, id, ['true'])).toMatchObject({ exitCode: 0 });

  const closed = await agent.client.sandboxes.updateSandboxNetwork({
    id,
    network: { allowInternetAccess: false },
  });
  expect(closed.sandbox?.network).toMatchObject({ allowInternetAccess: false, allowOut: [], denyOut: [] });
  expect(refused()).toEqual(['0.0.0.0/0']);
  // The agent still speaks with it.
  expect(await exec(agent.client, id, ['true'])).toMatchObject({ exitCode: 0 });
  const wrong = agent.client.sandboxes.updateSandboxNetwork({ id, network: { denyOut: ['example.org'] } });
  expect(await codeOf(wrong)).toBe('invalid_argument');

  await agent.kill('SIGKILL');
  agent = await startAgentProcess(files);
  expect(refused()).toEqual(['0.0.0.0/0']);
  const { sandboxes: copies } = await agent.client.sandboxes.forkSandbox({ id, count: 1 });
  expect(refused()).toEqual(['0.0.0.0/0', '0.0.0.0/0']);
  for (const copy of copies) await agent.client.sandboxes.destroySandbox({ id: copy.id });

  await agent.client.sandboxes.hibernateSandbox({ id });
  expect(refused()).toEqual([]);
  await agent.client.sandboxes.resumeSandbox({ id });
  expect(refused()).toEqual(['0.0.0.0/0']);
  await agent.client.sandboxes.destroySandbox({ id });
  expect(await remains(files)).toEqual([]);
});

it('tells how to reach its guest, and sleeps when its time is over', async () => {
  const { id } = await createSandbox(agent.client, { onTimeout: TimeoutAction.HIBERNATE });
  const access = await agent.client.sandboxes.getSandboxAccess({ id });
  const ask = (token: string) =>
    fetch(`http://${access.address}:49983/envs`, { headers: { 'x-access-token': token } });
  expect((await ask(access.envdAccessToken)).status).toBe(200);
  expect((await ask('another')).status).toBe(401);

  await agent.client.sandboxes.setSandboxTimeout({ id, timeout: { seconds: 1n, nanos: 0 } });
  await until('it sleeps', 20_000 * PATIENCE, async () => {
    const { sandbox } = await agent.client.sandboxes.getSandbox({ id });
    return sandbox?.state === SandboxState.HIBERNATED;
  });
  expect(await agent.client.sandboxes.getSandboxAccess({ id })).toMatchObject({ address: '' });
  const { sandbox } = await agent.client.sandboxes.resumeSandbox({ id });
  expect(sandbox).toMatchObject({ onTimeout: TimeoutAction.HIBERNATE, state: SandboxState.RUNNING });
  expect(sandbox?.endsAt).toBeUndefined();
  expect(await agent.client.sandboxes.getSandboxAccess({ id })).toMatchObject({
    envdAccessToken: access.envdAccessToken,
  });
  await agent.client.sandboxes.destroySandbox({ id });
  expect(await remains(files)).toEqual([]);
});

it('is made of a template that is listed', async () => {
  const { templates } = await agent.client.sandboxes.listTemplates({});
  const minimal = templates.find(({ name }) => name === 'minimal');
  expect(minimal).toMatchObject({ envdVersion: '0.6.4', vcpus: expect.any(Number) });
  expect(minimal?.sizeBytes).toBeGreaterThan(0n);
});
