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
import {
  codeOf,
  createSandbox,
  exec,
  prepareAgent,
  remains,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

const MIB = 1024 * 1024;
/** It is tried, and there is not enough; with less it would not be tried. */
const LEFT_MIB = 10;
/** More than a socket and a pipe hold, within seconds. */
const TALK = 'i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; seq 1000; sleep 0.05; done';
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
  const counted = async (): Promise<number> =>
    Number((await exec(client, id, ['cat', '/dev/shm/count'])).stdout);
  let isFollowed = true;
  const followed = codeOf(exec(client, id, ['sh', '-c', TALK])).finally(() => {
    isFollowed = false;
  });
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
    expect(isFollowed).toBe(true);
  }
  await rm(join(files.dir, 'full'));
  await sandboxes.hibernateSandbox({ id });
  expect(await followed).toBe('sandbox_wrong_state');
  await sandboxes.resumeSandbox({ id });
  // What talked to somebody who is not there any more has not come to a standstill.
  const atWake = await counted();
  await until('it counts on', 20_000, async () => (await counted()) > atWake + 20);
  expect(await exec(client, id, ['echo', 'again'])).toMatchObject({ stdout: 'again\n' });
  await sandboxes.destroySandbox({ id });
  // The mount is the test's.
  expect((await remains(files)).filter((each) => !each.includes(' wrenn-test '))).toEqual([]);
});
