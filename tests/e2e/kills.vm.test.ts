/** kill -9 of the VMM, and of the agent, at each phase of a creation: nothing is left, and the next one is as good. */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type AgentClient,
  createAgentClient,
  parseConfig,
  type RunningAgent,
  startAgent,
} from '@wrenn/agent';
import { SandboxState } from '@wrenn/protocol/agent';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  codeOf,
  createSandbox,
  killVmm,
  PATIENCE,
  prepareAgent,
  REQUEST,
  remains,
  startAgentProcess,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

const STEPS = ['validate', 'reserve', 'journal', 'layer', 'network', 'launch', 'boot', 'init'];
const MOMENTS = STEPS.flatMap((step) => [`before ${step}`, `after ${step}`]);

let files: TestAgentFiles;

/** The failed ones are kept for their reason, and hold nothing. */
async function destroyFailed(client: AgentClient): Promise<void> {
  const { sandboxes } = await client.sandboxes.listSandboxes({});
  for (const { id, state } of sandboxes) {
    expect(state).toBe(SandboxState.FAILED);
    await client.sandboxes.destroySandbox({ id });
  }
}

describe('a VMM that is killed', () => {
  let agent: RunningAgent;
  let client: AgentClient;
  let killAt: string | undefined;

  /** Of the creation that is under way; 0 until its process is there. */
  const vmmPid = async (): Promise<number> => {
    const { sandboxes } = await client.sandboxes.listSandboxes({});
    return sandboxes.find(({ state }) => state === SandboxState.CREATING)?.vmmPid ?? 0;
  };

  beforeAll(async () => {
    files = await prepareAgent(6);
    agent = await startAgent({
      config: parseConfig(files.config),
      checkpoint: async (step, moment) => {
        if (`${moment} ${step}` === killAt) killVmm(await vmmPid());
      },
    });
    client = createAgentClient({ socketPath: agent.socketPath });
  });
  afterAll(async () => {
    client?.close();
    await agent?.stop();
    await files?.remove();
  });

  afterEach(async () => {
    const { sandboxes } = await client.sandboxes.listSandboxes({});
    for (const { id } of sandboxes) await client.sandboxes.destroySandbox({ id });
  });

  it.each(MOMENTS.slice(MOMENTS.indexOf('after launch')))('%s leaves nothing', async (moment) => {
    killAt = moment;
    const outcome = await codeOf(client.sandboxes.createSandbox(REQUEST));
    // At the very end the creation may be quicker than the news.
    expect(outcome).toMatch(moment === 'after init' ? /^(vmm_died|no error)$/ : /^vmm_died$/);
    await until('it has failed', 20_000, async () => {
      const { sandboxes } = await client.sandboxes.listSandboxes({});
      return sandboxes.every(({ state }) => state === SandboxState.FAILED);
    });
    expect(await remains(files)).toEqual([]);
  });

  it.each([0, 5, 10, 20, 30, 40, 60, 80])(
    'some %i ms after its process was there leaves nothing',
    async (ms) => {
      killAt = undefined;
      const creating = codeOf(client.sandboxes.createSandbox(REQUEST));
      let pid = 0;
      while (pid === 0) pid = await vmmPid();
      await sleep(ms * PATIENCE);
      killVmm(pid);
      expect(await creating).toBe('vmm_died');
      expect(await remains(files)).toEqual([]);
    },
  );

  it('is no harm to the next one', async () => {
    const { id } = await createSandbox(client);
    await client.sandboxes.destroySandbox({ id });
    expect(await remains(files)).toEqual([]);
  });
});

describe('an agent that is killed', () => {
  beforeAll(async () => {
    files = await prepareAgent(7);
  });
  afterAll(() => files?.remove());

  it.each(MOMENTS)('%s leaves nothing that the next one does not take away', async (moment) => {
    const doomed = await startAgentProcess(files, moment);
    expect(await codeOf(doomed.client.sandboxes.createSandbox(REQUEST))).not.toBe('no error');
    await doomed.kill('SIGKILL');

    const next = await startAgentProcess(files);
    try {
      await destroyFailed(next.client);
      expect(await remains(files)).toEqual([]);
    } finally {
      await next.kill('SIGTERM');
    }
  });
});
