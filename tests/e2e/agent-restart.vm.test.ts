/** Agents come and go, and sandboxes stay. The agent is a process of its own here, so that it can be killed. */
import { access } from 'node:fs/promises';
import { SandboxState } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  type AgentProcess,
  codeOf,
  createSandbox,
  exec,
  hasRules,
  killVmm,
  PATIENCE,
  prepareAgent,
  REQUEST,
  remains,
  startAgentProcess,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

const READY_SLOTS = 2;

let files: TestAgentFiles;
let agent: AgentProcess;

beforeAll(async () => {
  // With slots that are in nobody's journal when the agent dies.
  files = await prepareAgent(3, { network: { readySlots: READY_SLOTS } });
  agent = await startAgentProcess(files);
});

afterAll(async () => {
  await agent?.kill('SIGKILL');
  await files?.remove();
});

const slotsOf = async (agentFiles: TestAgentFiles) =>
  (await remains(agentFiles)).filter((line) => line.startsWith('namespace'));
const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  );

it('loses no sandbox when it is killed, and finds again what was half made', async () => {
  const { id } = await createSandbox(agent.client, { metadata: { kept: 'yes' } });
  await exec(agent.client, id, ['sh', '-c', 'echo before > /tmp/mark']);
  // One more is on its way when the agent dies.
  const lost = codeOf(agent.client.sandboxes.createSandbox(REQUEST));
  await until('the second VMM', 10_000, async () => {
    const { sandboxes } = await agent.client.sandboxes.listSandboxes({});
    return sandboxes.filter(({ vmmPid }) => vmmPid > 0).length === 2;
  });
  await agent.kill('SIGKILL');
  expect(await lost).not.toBe('no error');

  agent = await startAgentProcess(files);
  const startedAt = performance.now();
  expect((await exec(agent.client, id, ['cat', '/tmp/mark'])).stdout).toBe('before\n');
  expect(performance.now() - startedAt).toBeLessThan(10_000 * PATIENCE);
  const { sandboxes } = await agent.client.sandboxes.listSandboxes({});
  expect(sandboxes.map(({ state, metadata }) => ({ state, kept: metadata.kept }))).toEqual([
    { state: SandboxState.FAILED, kept: undefined },
    { state: SandboxState.RUNNING, kept: 'yes' },
  ]);
  // The VMM and its wrapper.
  expect((await remains(files)).filter((line) => line.startsWith('process'))).toHaveLength(2);
});

it('leaves sandboxes running when it is told to go, and each state as it was', async () => {
  const { sandboxes } = await agent.client.sandboxes.listSandboxes({});
  const id = sandboxes.find(({ state }) => state === SandboxState.RUNNING)?.id ?? '';
  await agent.client.sandboxes.pauseSandbox({ id });
  const startedAt = performance.now();
  expect(await agent.kill('SIGTERM')).toBe(0);
  expect(performance.now() - startedAt).toBeLessThan(10_000 * PATIENCE);
  expect(await exists(files.socketPath)).toBe(false);

  agent = await startAgentProcess(files);
  expect((await agent.client.sandboxes.getSandbox({ id })).sandbox?.state).toBe(SandboxState.PAUSED);
  await agent.client.sandboxes.resumeSandbox({ id });
  expect((await exec(agent.client, id, ['cat', '/tmp/mark'])).stdout).toBe('before\n');
});

it('is alone in its directory', async () => {
  await expect(startAgentProcess(files)).rejects.toThrow();
  expect((await agent.client.agent.getInfo({})).pid).toBe(agent.pid);
});

it('notices that a VMM died while it was away, and takes away what it had ready for others', async () => {
  const { sandboxes } = await agent.client.sandboxes.listSandboxes({});
  const sandbox = sandboxes.find(({ state }) => state === SandboxState.RUNNING);
  if (sandbox === undefined) throw new Error('no sandbox runs');
  await until('ready slots', 10_000, async () => (await slotsOf(files)).length === 1 + READY_SLOTS);
  await agent.kill('SIGKILL');
  killVmm(sandbox.vmmPid);
  // Wants none, and finds those of its predecessor.
  files = { ...files, config: { ...files.config, network: { ...files.config.network, readySlots: 0 } } };
  agent = await startAgentProcess(files);
  const { sandbox: now } = await agent.client.sandboxes.getSandbox({ id: sandbox.id });
  expect(now?.state).toBe(SandboxState.FAILED);
  expect(await remains(files)).toEqual([]);
});

it('leaves by itself when it was started on demand and has nothing to do', async () => {
  await agent.kill('SIGTERM');
  const config = { ...files.config, idleTimeoutMs: 5_000 * PATIENCE };
  agent = await startAgentProcess({ ...files, config });
  expect(await hasRules(files)).toBe(true);
  agent.client.close();
  expect(await agent.ended).toBe(0);
  expect(await exists(files.socketPath)).toBe(false);
  expect(await hasRules(files)).toBe(false);
  expect(await remains(files)).toEqual([]);
});
