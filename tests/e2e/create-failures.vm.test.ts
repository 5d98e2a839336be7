/** Every step of a creation, made to fail before and after it, on real kernel objects: nothing is left. */
import {
  type AgentClient,
  createAgentClient,
  parseConfig,
  type RunningAgent,
  startAgent,
} from '@wrenn/agent';
import { WrennError } from '@wrenn/protocol';
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  codeOf,
  createSandbox,
  prepareAgent,
  REQUEST,
  remains,
  type TestAgentFiles,
} from './agent-fixture.ts';

const STEPS = ['validate', 'reserve', 'journal', 'layer', 'network', 'launch', 'boot', 'init'];

/** The layer is made beside the end of the journal and the network: where one has failed, the other comes to its end. */
const OF_THE_LAYER = /^(before|after) layer$/;
const BESIDE_IT = /^(after journal|(before|after) network)$/;
const maySucceed = (failed: string, other: string): boolean =>
  OF_THE_LAYER.test(failed) ? BESIDE_IT.test(other) : BESIDE_IT.test(failed) && OF_THE_LAYER.test(other);

let files: TestAgentFiles;
let agent: RunningAgent;
let client: AgentClient;
let failAt: string | undefined;
const reached: string[] = [];

beforeAll(async () => {
  files = await prepareAgent(2);
  agent = await startAgent({
    config: parseConfig(files.config),
    checkpoint: (step, moment) => {
      reached.push(`${moment} ${step}`);
      if (failAt === `${moment} ${step}`)
        throw new WrennError('command_failed', `failed ${failAt} on purpose`);
    },
  });
  client = createAgentClient({ socketPath: agent.socketPath });
});

afterAll(async () => {
  client?.close();
  await agent?.stop();
  await files?.remove();
});

it.each(STEPS.flatMap((step) => [`before ${step}`, `after ${step}`]))(
  'leaves nothing when it fails %s',
  async (moment) => {
    failAt = moment;
    reached.length = 0;
    expect(await codeOf(client.sandboxes.createSandbox(REQUEST))).toBe('command_failed');
    const later = reached.slice(reached.indexOf(moment) + 1);
    expect(reached).toContain(moment);
    expect(later.filter((each) => !maySucceed(moment, each))).toEqual([]);
    expect(await remains(files)).toEqual([]);
    const { sandboxes } = await client.sandboxes.listSandboxes({});
    for (const { id, reason } of sandboxes) {
      expect(reason).toContain('on purpose');
      await client.sandboxes.destroySandbox({ id });
    }
  },
);

it('leaves nothing when it is destroyed in the middle, and the next one is as good as new', async () => {
  failAt = undefined;
  const creating = codeOf(client.sandboxes.createSandbox(REQUEST));
  for (;;) {
    const [first] = (await client.sandboxes.listSandboxes({})).sandboxes;
    if (first === undefined || first.vmmPid === 0) continue;
    await client.sandboxes.destroySandbox({ id: first.id });
    break;
  }
  expect(await creating).toBe('sandbox_not_found');
  expect(await remains(files)).toEqual([]);
  const { id } = await createSandbox(client);
  await client.sandboxes.destroySandbox({ id });
  expect(await remains(files)).toEqual([]);
  const { text } = await client.agent.getMetrics({});
  expect(text).not.toMatch(/wrenn_cleanup_failures_total\{/);
});
