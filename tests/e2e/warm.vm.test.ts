/** Sandboxes from warm templates, with no pool, a small one, and one that is larger than what is asked for. */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type AgentClient,
  createAgentClient,
  parseConfig,
  type RunningAgent,
  startAgent,
} from '@wrenn/agent';
import { type Sandbox, SandboxState } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  codeOf,
  createSandbox,
  exec,
  prepareAgent,
  REQUEST,
  remains,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

const { template, vcpus, memoryMib, diskMib } = REQUEST;
const TEST_MS = 240_000;

const namesOf = ({ phases }: Sandbox): string[] => phases.map(({ name }) => name);

describe.each([0, 1, 4])('with a pool of %i', (size) => {
  let files: TestAgentFiles;
  let agent: RunningAgent;
  let client: AgentClient;

  const start = async (): Promise<void> => {
    agent = await startAgent({ config: parseConfig(files.config) });
    client = createAgentClient({ socketPath: agent.socketPath });
  };
  const sh = async ({ id }: Sandbox, script: string): Promise<string> =>
    (await exec(client, id, ['sh', '-c', script])).stdout;

  beforeAll(async () => {
    files = await prepareAgent(30 + size, {
      warm: { mode: 'auto' },
      network: { readySlots: size },
      pool: { entries: size === 0 ? [] : [{ template, vcpus, memoryMib, diskMib, size }] },
    });
    await start();
    await client.sandboxes.warmTemplate({ template, vcpus, memoryMib, diskMib });
  }, TEST_MS);
  afterAll(async () => {
    client?.close();
    await agent?.stop();
    await files?.remove();
  });

  it(
    'each sandbox is one of its own, with what was asked for',
    async () => {
      if (size > 0) {
        // What is asked for before the pool has any is restored, and no worse.
        await until('the pool is filled', 60_000, async () => {
          const sandbox = await createSandbox(client);
          await client.sandboxes.destroySandbox({ id: sandbox.id });
          await sleep(500);
          return namesOf(sandbox).includes('claim');
        });
      }
      const made = await Promise.all(
        ['a', 'b', 'c'].map((who) =>
          createSandbox(client, {
            envs: { WHO: who },
            metadata: { who },
            timeout: { seconds: 600n, nanos: 0 },
          }),
        ),
      );
      const told = await Promise.all(
        made.map((one) =>
          sh(one, 'hostname; cat /etc/machine-id; head -c 16 /dev/urandom | md5sum; echo $WHO'),
        ),
      );
      const columns = told.map((text) => text.trim().split('\n'));
      for (const column of [0, 1, 2, 3]) expect(new Set(columns.map((line) => line[column])).size).toBe(3);
      made.forEach((one, i) => {
        expect(one).toMatchObject({ state: SandboxState.RUNNING, metadata: { who: columns[i]?.[3] } });
        expect(columns[i]?.[0]).toBe(one.id);
        expect(namesOf(one)).not.toContain('boot');
        expect(one.endsAt).toBeDefined();
      });
      const { sandboxes } = await client.sandboxes.listSandboxes({});
      expect(sandboxes.map(({ id }) => id).sort()).toEqual(made.map(({ id }) => id).sort());
      for (const { id } of made) await client.sandboxes.destroySandbox({ id });
    },
    TEST_MS,
  );

  it(
    'nothing but the template is left when the agent goes, and the next one starts from it',
    async () => {
      client.close();
      await agent.stop();
      await start();
      const sandbox = await createSandbox(client);
      expect(namesOf(sandbox)).not.toContain('boot');
      expect(await sh(sandbox, 'echo here')).toBe('here\n');
      await client.sandboxes.destroySandbox({ id: sandbox.id });
      expect(await codeOf(client.sandboxes.getSandbox({ id: sandbox.id }))).toBe('sandbox_not_found');
      client.close();
      await agent.stop();
      // The pool's own are there until the next agent, which does not want them. Ready slots went with theirs.
      const network = { ...files.config.network, readySlots: 0 };
      files = { ...files, config: { ...files.config, network, pool: { entries: [] } } };
      await start();
      expect(await remains(files)).toEqual([]);
    },
    TEST_MS,
  );
});
