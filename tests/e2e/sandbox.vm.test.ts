/** One sandbox through the agent's API, on a real microVM: commands, files, pause, death. */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import {
  type AgentClient,
  createAgentClient,
  parseConfig,
  type RunningAgent,
  startAgent,
} from '@wrenn/agent';
import {
  type ExecRequest,
  ExecRequestSchema,
  type Sandbox,
  SandboxState,
  type WriteFileRequest,
  WriteFileRequestSchema,
} from '@wrenn/protocol/agent';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  codeOf,
  createSandbox,
  EXPECTED_DRIVER,
  exec,
  killVmm,
  PATIENCE,
  prepareAgent,
  REQUEST,
  remains,
  type TestAgentFiles,
  until,
} from './agent-fixture.ts';

let files: TestAgentFiles;
let agent: RunningAgent;
let client: AgentClient;
let sandbox: Sandbox;
let id: string;

beforeAll(async () => {
  files = await prepareAgent(1);
  agent = await startAgent({ config: parseConfig(files.config) });
  client = createAgentClient({ socketPath: agent.socketPath });
  sandbox = await createSandbox(client, {
    diskMib: 64,
    envs: { GREETING: 'hello' },
    metadata: { test: 'yes' },
  });
  id = sandbox.id;
});

afterAll(async () => {
  client?.close();
  await agent?.stop();
  await files?.remove();
});

const sh = (script: string, options = {}) => exec(client, id, ['sh', '-c', script], options);

async function* bytes(...parts: (string | Uint8Array)[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) yield Buffer.from(part);
}

describe('a sandbox', () => {
  it('is what was asked for', async () => {
    expect(sandbox).toMatchObject({ state: SandboxState.RUNNING, vcpus: 1, memoryMib: 256, diskMib: 64 });
    expect(sandbox.phases.map(({ name }) => name)).toEqual([
      'validate',
      'reserve',
      'journal',
      'layer',
      'network',
      'launch',
      'boot',
      'init',
    ]);
    expect((await sh('nproc; hostname; echo $GREETING; id -un')).stdout).toBe(`1\n${id}\nhello\nuser\n`);
    expect((await sh('id -u', { user: 'root' })).stdout).toBe('0\n');
    const askedAt = Date.now() / 1000;
    const clock = Number((await sh('date +%s')).stdout);
    expect(clock).toBeGreaterThan(askedAt - 4 * PATIENCE);
    expect(clock).toBeLessThan(Date.now() / 1000 + 4 * PATIENCE);
  });

  it.skipIf(EXPECTED_DRIVER === undefined)('runs on what was wanted', async () => {
    expect(await client.agent.getInfo({})).toMatchObject({ ...EXPECTED_DRIVER });
  });

  it('keeps the streams apart and passes the exit code on', async () => {
    const script = 'cat; echo err >&2; exit 7';
    expect(await sh(script, { stdin: bytes('hel', 'lo') })).toEqual({
      stdout: 'hello',
      stderr: 'err\n',
      exitCode: 7,
    });
    expect(await sh('cat; kill -9 $$')).toMatchObject({ stdout: '', exitCode: 137 });
    expect(await codeOf(exec(client, id, ['/no/such/program']))).toBe('invalid_argument');
    expect(await codeOf(exec(client, id, ['true'], { user: 'nobody-here' }))).toBe('user_not_found');
  });

  it('takes 8 MiB on stdin and gives them back', async () => {
    async function* many(): AsyncGenerator<Uint8Array> {
      for (let i = 0; i < 32; i++) yield Buffer.alloc(256 * 1024, 97 + (i % 26));
    }
    const { stdout } = await sh('tee /tmp/in | wc -c; md5sum < /tmp/in | cut -d" " -f1', { stdin: many() });
    const hash = createHash('md5');
    for await (const part of many()) hash.update(part);
    expect(stdout).toBe(`${8 * 1024 * 1024}\n${hash.digest('hex')}\n`);
    await sh('rm /tmp/in');
  });

  it('holds back a line that nobody reads, and lives on', async () => {
    let offered = 0;
    const abort = new AbortController();
    async function* line(): AsyncGenerator<Uint8Array> {
      for (; offered < 1024; offered++) yield Buffer.alloc(1024 * 1024, 120);
    }
    const before = process.memoryUsage.rss();
    const work = codeOf(sh('exec sleep 1000', { stdin: line(), signal: abort.signal }));
    await sleep(1500 * PATIENCE);
    expect(offered).toBeLessThan(32);
    expect(process.memoryUsage.rss() - before).toBeLessThan(150 * 1024 * 1024);
    abort.abort();
    expect(await work).toBe('cancelled');
    // The command goes with its caller.
    await until('sleep ends', 30_000, async () => (await sh('pgrep -x sleep || true')).stdout === '');
  });

  it('ends a command after its time, and one that prints for ever when its reader leaves', async () => {
    expect(await codeOf(sh('sleep 1000', { timeoutMs: 300 }))).toBe('deadline_exceeded');
    const abort = new AbortController();
    const flood = codeOf(sh('yes', { signal: abort.signal }));
    await sleep(500);
    abort.abort();
    expect(await flood).toBe('cancelled');
    await until('yes ends', 30_000, async () => (await sh('pgrep -x yes || true')).stdout === '');
  });

  it('has terminals, with sizes and signals', async () => {
    let screen = '';
    async function* requests(): AsyncGenerator<ExecRequest> {
      const terminal = { cols: 91, rows: 17 };
      const start = { sandboxId: id, command: ['sh'], terminal, stdin: true };
      yield create(ExecRequestSchema, { message: { case: 'start', value: start } });
      const type = (text: string) =>
        create(ExecRequestSchema, { message: { case: 'stdin', value: Buffer.from(text) } });
      yield type('stty size\n');
      await until('its size is shown', 30_000, async () => screen.includes('17 91'));
      yield create(ExecRequestSchema, { message: { case: 'resize', value: { cols: 50, rows: 10 } } });
      yield type('stty size; exit 3\n');
      await new Promise(() => {});
    }
    let exitCode: number | undefined;
    for await (const { message } of client.guest.exec(requests())) {
      if (message.case === 'pty') screen += Buffer.from(message.value).toString();
      if (message.case === 'exited') exitCode = message.value.exitCode;
    }
    expect(screen).toContain('17 91');
    expect(screen).toContain('10 50');
    expect(exitCode).toBe(3);
  });

  it('passes every signal on', async () => {
    async function* requests(): AsyncGenerator<ExecRequest> {
      const command = ['sh', '-c', 'trap "echo got; exit 5" USR1; echo ready; while :; do sleep 0.1; done'];
      yield create(ExecRequestSchema, { message: { case: 'start', value: { sandboxId: id, command } } });
      await ready;
      yield create(ExecRequestSchema, { message: { case: 'signal', value: { number: 10 } } });
    }
    let isReady = (): void => {};
    const ready = new Promise<void>((resolve) => {
      isReady = resolve;
    });
    let output = '';
    let exitCode: number | undefined;
    for await (const { message } of client.guest.exec(requests())) {
      if (message.case === 'stdout') output += Buffer.from(message.value).toString();
      if (output.includes('ready')) isReady();
      if (message.case === 'exited') exitCode = message.value.exitCode;
    }
    expect(output).toBe('ready\ngot\n');
    expect(exitCode).toBe(5);
  });

  it('carries files in both directions', async () => {
    async function* upload(
      path: string,
      mode: number,
      ...parts: Uint8Array[]
    ): AsyncGenerator<WriteFileRequest> {
      const open = { sandboxId: id, path, mode };
      yield create(WriteFileRequestSchema, { message: { case: 'open', value: open } });
      for (const value of parts) yield create(WriteFileRequestSchema, { message: { case: 'data', value } });
    }
    const part = Buffer.alloc(1024 * 1024, 'wrenn');
    const { entry } = await client.guest.writeFile(upload('dir/tool', 0o750, part, part));
    expect(entry).toMatchObject({ path: '/home/user/dir/tool', size: 2097152n, owner: 'user' });
    expect((entry?.mode ?? 0) & 0o7777).toBe(0o750);
    let sizeBytes = 0;
    for await (const { data } of client.guest.readFile({ sandboxId: id, path: 'dir/tool' }))
      sizeBytes += data.length;
    expect(sizeBytes).toBe(2097152);
    const { entries } = await client.guest.listFiles({ sandboxId: id, path: 'dir', depth: 1 });
    expect(entries.map(({ name }) => name)).toEqual(['tool']);
    await client.guest.makeDirectory({ sandboxId: id, path: 'dir/sub' });
    await client.guest.removeFile({ sandboxId: id, path: 'dir' });
    expect(await codeOf(client.guest.statFile({ sandboxId: id, path: 'dir' }))).toBe('file_not_found');
    const missing = (async () => {
      for await (const _ of client.guest.readFile({ sandboxId: id, path: '/nope' }));
    })();
    expect(await codeOf(missing)).toBe('file_not_found');
    // More than its own disk holds: told, and not the end of it.
    const parts = Array.from({ length: 80 }, () => part);
    expect(await codeOf(client.guest.writeFile(upload('full', 0o600, ...parts)))).toBe('disk_full');
    expect((await sh('rm -f full; echo fine')).stdout).toBe('fine\n');
  });

  it('refuses what makes no sense, each with its code', async () => {
    const make = (change: object) => codeOf(client.sandboxes.createSandbox({ ...REQUEST, ...change }));
    expect(await make({ template: 'nope' })).toBe('template_not_found');
    expect(await make({ vcpus: 1000 })).toBe('vcpus_exceed_host');
    expect(await make({ memoryMib: 10_000_000 })).toBe('memory_exceeds_host');
    expect(await make({ diskMib: 100_000_000 })).toBe('invalid_argument');
    expect(await make({ envs: { A: 'a\0b' } })).toBe('invalid_argument');
    expect(await codeOf(client.sandboxes.getSandbox({ id: '../../etc' }))).toBe('invalid_sandbox_id');
    expect(await codeOf(client.guest.statFile({ sandboxId: id, path: 'a\0b' }))).toBe('invalid_path');
    expect(await codeOf(client.sandboxes.resumeSandbox({ id }))).toBe('sandbox_wrong_state');
  });

  it('shows its console', async () => {
    let text = '';
    for await (const { data } of client.sandboxes.streamLogs({ id })) text += Buffer.from(data).toString();
    expect(text).toContain('wrenn-init: starting envd');
  });

  it('stands still when paused, and goes on with the right time', async () => {
    const counter = sh('until test -e /tmp/enough; do echo >> /tmp/counted; sleep 0.05; done');
    const counted = async () => Number((await sh('cat /tmp/counted | wc -l')).stdout);
    await until('it counts', 30_000, async () => (await counted()) > 0);
    const startedAt = performance.now();
    const before = await counted();
    const paused = await client.sandboxes.pauseSandbox({ id });
    expect(paused.sandbox?.state).toBe(SandboxState.PAUSED);
    const pausedAt = performance.now();
    expect(await codeOf(sh('true'))).toBe('sandbox_wrong_state');
    expect(await codeOf(client.sandboxes.pauseSandbox({ id }))).toBe('sandbox_wrong_state');
    await sleep(5000);
    const pausedMs = performance.now() - pausedAt;
    await client.sandboxes.resumeSandbox({ id });
    const after = await counted();
    // It took no time for the guest, which counts once in 50 ms at most.
    const couldRunMs = performance.now() - startedAt - pausedMs;
    expect(after - before).toBeLessThan(couldRunMs / 50 + 3);
    const askedAt = Date.now() / 1000;
    const clock = Number((await sh('date +%s')).stdout);
    expect(clock).toBeGreaterThan(askedAt - 4);
    expect(clock).toBeLessThan(Date.now() / 1000 + 4);
    await sh('touch /tmp/enough');
    // The stream that was open all the while is still the same.
    expect((await counter).exitCode).toBe(0);
  });

  it('says at once why it failed when its VMM is killed, and nothing is left of it', async () => {
    const running = codeOf(sh('sleep 1000'));
    await sleep(300);
    killVmm(sandbox.vmmPid);
    const tookMs = await until('the failure', 20_000, async () => {
      const { sandbox: now } = await client.sandboxes.getSandbox({ id });
      return now?.state === SandboxState.FAILED;
    });
    expect(tookMs).toBeLessThan(8_000 * PATIENCE);
    expect(await running).toBe('sandbox_failed');
    const { sandbox: failed } = await client.sandboxes.getSandbox({ id });
    expect(failed?.reason).toContain('SIGKILL');
    expect(await remains(files)).toEqual([]);
    await client.sandboxes.destroySandbox({ id });
    expect(await codeOf(client.sandboxes.getSandbox({ id }))).toBe('sandbox_not_found');
  });
});
