/** The cgroup of a real microVM: its processes are in it, and the kernel's word on its memory is the last. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type AgentClient,
  createAgentClient,
  leftCgroups,
  parseConfig,
  type RunningAgent,
  startAgent,
} from '@wrenn/agent';
import { findCgroups } from '@wrenn/host';
import { type Sandbox, SandboxState } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createSandbox, exec, prepareAgent, remains, type TestAgentFiles, until } from './agent-fixture.ts';

const MIB = 1024 * 1024;
const FILES = {
  1: { usage: 'memory.usage_in_bytes', limit: 'memory.limit_in_bytes' },
  2: { usage: 'memory.current', limit: 'memory.max' },
};

const found = await findCgroups();
let files: TestAgentFiles;
let agent: RunningAgent;
let client: AgentClient;
let sandbox: Sandbox;

describe.skipIf(found.version === 'none')('the cgroup of a microVM', () => {
  beforeAll(async () => {
    files = await prepareAgent(8);
    agent = await startAgent({ config: parseConfig(files.config) });
    client = createAgentClient({ socketPath: agent.socketPath });
    sandbox = await createSandbox(client);
  });

  afterAll(async () => {
    client?.close();
    await agent?.stop();
    await files?.remove();
  });

  it('has the VMM and its wrapper in it', async () => {
    const { id, vmmPid } = sandbox;
    expect(await leftCgroups(files.prefix)).toEqual([`wrenn-${files.prefix}/${id}`]);
    const wrapperPid = /^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${vmmPid}/status`, 'utf8'))?.[1];
    for (const pid of [vmmPid, wrapperPid]) {
      expect(await readFile(`/proc/${pid}/cgroup`, 'utf8')).toContain(`/wrenn-${files.prefix}/${id}\n`);
    }
  });

  it('bounds its memory; who wants more is killed, told of, and leaves nothing', async () => {
    const { id } = sandbox;
    if (found.version === 'none') throw new Error(found.reason);
    const group = join(found.roots.get('memory') ?? '', `wrenn-${files.prefix}`, id);
    const { usage, limit } = FILES[found.version];
    // The guest alone cannot reach the limit that the group was given, so it gets a lower one.
    const lower = Math.ceil(Number(await readFile(join(group, usage), 'utf8')) / MIB) + 16;
    await writeFile(join(group, limit), String(lower * MIB));
    const hog = ['sh', '-c', 'head -c 150000000 /dev/zero | tail -c 150000000 >/dev/null'];
    await exec(client, id, hog).catch(() => {});
    const now = async (): Promise<Sandbox | undefined> => (await client.sandboxes.getSandbox({ id })).sandbox;
    await until('its end', 30_000, async () => (await now())?.state === SandboxState.FAILED);
    expect((await now())?.reason).toContain(`because it used more memory than its limit of ${lower} MiB.`);
    expect(await remains(files)).toEqual([]);
    expect(await leftCgroups(files.prefix)).toEqual([]);
  });
});
