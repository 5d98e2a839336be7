/**
 * The same thing many times over: sandboxes that come and go, and one that sleeps and wakes with a program in it that
 * checks its own memory and files. A few rounds here; `WRENN_CREATES=200 WRENN_NAPS=20` for those of a release.
 */
import { readdir } from 'node:fs/promises';
import {
  type AgentClient,
  createAgentClient,
  parseConfig,
  type RunningAgent,
  startAgent,
} from '@wrenn/agent';
import { SandboxState } from '@wrenn/protocol/agent';
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  createSandbox,
  exec,
  PATIENCE,
  prepareAgent,
  REQUEST,
  remains,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

const CREATES = Number(process.env.WRENN_CREATES ?? 8);
const NAPS = Number(process.env.WRENN_NAPS ?? 3);
const CHECK_EVERY = 10;
const RESTART_EVERY = 7;
const ROUND_MS = 20_000 * PATIENCE;

let files: TestAgentFiles;
let agent: RunningAgent;
let client: AgentClient;

const startOne = async (): Promise<void> => {
  agent = await startAgent({ config: parseConfig(files.config) });
  client = createAgentClient({ socketPath: agent.socketPath });
};
const stopOne = async (): Promise<void> => {
  client.close();
  await agent.stop();
};

beforeAll(async () => {
  files = await prepareAgent(24);
  await startOne();
  // What takes seconds is none of this.
  await client.sandboxes.warmTemplate(REQUEST);
}, 120_000 * PATIENCE);
afterAll(async () => {
  // Of a test that has failed.
  const { sandboxes } = await client.sandboxes.listSandboxes({});
  for (const { id } of sandboxes) await client.sandboxes.destroySandbox({ id }).catch(() => {});
  await stopOne();
  await files.remove();
}, 120_000 * PATIENCE);

const openFiles = async (): Promise<number> => (await readdir('/proc/self/fd')).length;

it(
  `${CREATES} sandboxes in a row leave nothing`,
  async () => {
    let before = Number.NaN;
    for (let round = 1; round <= CREATES; round++) {
      const { id } = await createSandbox(client);
      expect(await exec(client, id, ['echo', `round ${round}`])).toMatchObject({
        stdout: `round ${round}\n`,
      });
      await client.sandboxes.destroySandbox({ id });
      if (round === 1) before = await openFiles();
      if (round % CHECK_EVERY !== 0 && round !== CREATES) continue;
      expect(await remains(files), `after ${round}`).toEqual([]);
      // Of this process, which the agent is a part of; sockets that are about to close come and go.
      await expect.poll(openFiles, { message: `after ${round}` }).toBeLessThanOrEqual(before + 4);
    }
  },
  CREATES * ROUND_MS,
);

/**
 * Has 4 MiB of numbers, the sum of each block, and the same in a file. Again and again it checks a block in both places
 * and replaces it, and counts; whatever is wrong ends it. Asked, it checks all.
 */
const PROGRAM = `
use strict;
my $blocks = 1024;
my $make = sub { pack("N*", map { int rand 2**32 } 1 .. 1024) };
my @memory = map { $make->() } 1 .. $blocks;
my @sums = map { unpack("%32N*", $_) } @memory;
open(my $file, "+>:raw", "/root/own") or die;
syswrite($file, $_) for @memory;
my $say = sub {
  my ($name, $what) = @_;
  open(my $out, ">", "/dev/shm/$name.new") or die;
  print $out $what;
  close($out);
  rename("/dev/shm/$name.new", "/dev/shm/$name");
};
my $check = sub {
  my ($i) = @_;
  my $is_right = unpack("%32N*", $memory[$i]) == $sums[$i];
  sysseek($file, 4096 * $i, 0);
  sysread($file, my $read, 4096);
  return if $is_right && $read eq $memory[$i];
  $say->("wrong", "block $i: memory " . ($is_right ? "right" : "wrong"));
  exit 1;
};
for (my $turn = 1; ; $turn++) {
  my $i = $turn % $blocks;
  $check->($i);
  $memory[$i] = $make->();
  $sums[$i] = unpack("%32N*", $memory[$i]);
  sysseek($file, 4096 * $i, 0);
  syswrite($file, $memory[$i]);
  $say->("turn", $turn);
  if (-e "/dev/shm/ask") {
    $check->($_) for 0 .. $blocks - 1;
    unlink("/dev/shm/ask");
    $say->("answer", "all right");
  }
  select(undef, undef, undef, 0.01);
}`;

it(
  `${NAPS} rounds of sleep lose nothing of a program that checks itself`,
  async () => {
    const { id } = await createSandbox(client);
    const sh = async (script: string): Promise<string> => {
      const result = await exec(client, id, ['sh', '-c', script], { user: 'root' });
      expect(result, script).toMatchObject({ exitCode: 0 });
      return result.stdout;
    };
    const program = Buffer.from(PROGRAM).toString('base64');
    await sh(`echo ${program} | base64 -d > /root/program
      setsid perl /root/program > /dev/null 2> /dev/shm/stderr < /dev/null &
      until test -e /dev/shm/turn; do sleep 0.1; done`);
    const turn = async (): Promise<number> =>
      Number(await sh('cat /dev/shm/wrong /dev/shm/stderr >&2 2>/dev/null; cat /dev/shm/turn'));
    let last = await turn();
    for (let round = 1; round <= NAPS; round++) {
      await client.sandboxes.hibernateSandbox({ id });
      expect((await remains(files)).filter((each) => !each.startsWith('directory '))).toEqual([]);
      if (round % RESTART_EVERY === 0) {
        await stopOne();
        await startOne();
      }
      const { sandbox } = await client.sandboxes.resumeSandbox({ id });
      expect(sandbox?.state).toBe(SandboxState.RUNNING);
      await until('it goes on', 30_000, async () => (await turn()) > last);
      await sh('touch /dev/shm/ask');
      // Whole: it is renamed to this.
      await until('it has checked all', 20_000, async () =>
        (await sh('ls /dev/shm')).split('\n').includes('answer'),
      );
      expect(await sh('cat /dev/shm/answer; rm /dev/shm/answer; cat /dev/shm/wrong 2>/dev/null || :')).toBe(
        'all right',
      );
      last = await turn();
    }
    await client.sandboxes.destroySandbox({ id });
    expect(await remains(files)).toEqual([]);
  },
  NAPS * 2 * ROUND_MS,
);
