/** A host whose disk is full: what was to be written is refused, and nothing else is lost. */
import { open, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type AgentClient,
  createAgentClient,
  parseConfig,
  type RunningAgent,
  startAgent,
} from '@wrenn/agent';
import { runCommand } from '@wrenn/host';
import { type Sandbox, SandboxState } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { codeOf, createSandbox, exec, prepareAgent, remains, type TestAgentFiles } from './agent-fixture.ts';

const MIB = 1024 * 1024;
const LEFT_MIB = 10;
let files: TestAgentFiles;
let agent: RunningAgent;
let client: AgentClient;
let sandbox: Sandbox;

beforeAll(async () => {
  files = await prepareAgent(41, { limits: { diskReserveMib: 0 } });
  // With a disk of its own. The file system of the machine is nobody's to fill.
  await mount('mount', '-t', 'tmpfs', '-o', 'size=512M,mode=0755', 'wrenn-test', files.dir);
  agent = await startAgent({ config: parseConfig(files.config) });
  client = createAgentClient({ socketPath: agent.socketPath });
  sandbox = await createSandbox(client);
});
afterAll(async () => {
  client?.close();
  await agent?.stop();
  // The agent's log is still open in this process.
  await mount('umount', '--lazy', files.dir);
  await files?.remove();
});

async function mount(program: string, ...args: string[]): Promise<void> {
  await runCommand(program, args, { timeoutMs: 10_000 });
}

const freeMib = async (): Promise<number> => {
  const { bavail, bsize } = await statfs(files.dir);
  return (bavail * bsize) / MIB;
};
const fill = async (): Promise<void> => {
  const file = await open(join(files.dir, 'full'), 'w');
  while ((await freeMib()) > LEFT_MIB) await file.write(Buffer.alloc(MIB, 1));
  await file.close();
};

it('keeps a sandbox running that cannot hibernate or be copied, and gives the space back', async () => {
  const { id } = sandbox;
  await fill();
  const before = await freeMib();
  const { sandboxes } = client;
  for (const work of [
    () => sandboxes.hibernateSandbox({ id }),
    () => sandboxes.snapshotSandbox({ id }),
    () => sandboxes.forkSandbox({ id, count: 1 }),
  ]) {
    expect(await codeOf(work())).toBe('disk_full');
    // The log has grown by some lines.
    expect(Math.abs((await freeMib()) - before)).toBeLessThan(1);
    expect((await sandboxes.getSandbox({ id })).sandbox?.state).toBe(SandboxState.RUNNING);
    expect(await exec(client, id, ['echo', 'still here'])).toMatchObject({ stdout: 'still here\n' });
  }
  await rm(join(files.dir, 'full'));
  await sandboxes.hibernateSandbox({ id });
  await sandboxes.resumeSandbox({ id });
  expect(await exec(client, id, ['echo', 'again'])).toMatchObject({ stdout: 'again\n' });
  await sandboxes.destroySandbox({ id });
  // The mount is the test's.
  expect((await remains(files)).filter((each) => !each.includes(' wrenn-test '))).toEqual([]);
});
