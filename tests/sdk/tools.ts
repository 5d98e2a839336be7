/** E2B's command line and code interpreter, which bring an SDK of their own, and the newest SDK by a domain alone. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Sandbox as Interpreter } from '@e2b/code-interpreter';
import { Sandbox } from 'e2b';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { TEMPLATE, useSettings } from './context.ts';
import { trust } from './names.ts';
import type { SdkServer } from './server.ts';

const CLI = join(dirname(createRequire(import.meta.url).resolve('@e2b/cli/package.json')), 'dist/index.js');

interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export function commandLineCases(serverOf: () => SdkServer): void {
  const home = mkdtempSync(join(tmpdir(), 'wrenn-sdk-cli-'));
  let sandbox: Sandbox;
  let restore: () => void;
  beforeAll(async () => {
    restore = useSettings('url', serverOf());
    sandbox = await Sandbox.create(TEMPLATE, { metadata: { by: 'cli' }, timeoutMs: 120_000 });
  });
  afterAll(async () => {
    await sandbox?.kill();
    restore();
    rmSync(home, { recursive: true });
  });

  const e2b = (...words: string[]) => {
    const { url, key } = serverOf();
    // No settings of the person who runs this, and no look for a newer version.
    const own = { HOME: home, XDG_CONFIG_HOME: home, NO_UPDATE_NOTIFIER: '1', NO_COLOR: '1' };
    const env = { PATH: process.env.PATH, E2B_API_KEY: key, E2B_API_URL: url, E2B_SANDBOX_URL: url, ...own };
    return spawn(process.execPath, [CLI, ...words], { env, stdio: 'pipe' });
  };
  const run = (...words: string[]) => ended(e2b('sandbox', ...words));

  it('lists sandboxes', async () => {
    const { code, stdout } = await run('list', '--format', 'json');
    expect(code).toBe(0);
    const listed: unknown = JSON.parse(stdout);
    expect(listed).toContainEqual(
      expect.objectContaining({ sandboxId: sandbox.sandboxId, state: 'running', metadata: { by: 'cli' } }),
    );
    expect((await run('list', '--metadata', 'by=cli')).stdout).toContain(sandbox.sandboxId);
    expect((await run('list', '--metadata', 'by=nobody')).stdout).toContain('No sandboxes found');
  });

  it('runs commands, with input and the exit code', async () => {
    const { sandboxId } = sandbox;
    const script = 'whoami; pwd; echo $A; echo oops >&2; exit 3';
    const failed = await run('exec', '-u', 'root', '-c', '/tmp', '-e', 'A=b', sandboxId, 'sh', '-c', script);
    expect(failed).toMatchObject({ code: 3, stdout: 'root\n/tmp\nb\n' });
    expect(failed.stderr).toContain('oops\n');
    const child = e2b('sandbox', 'exec', sandboxId, 'cat');
    child.stdin?.end('typed\n');
    expect(await ended(child)).toEqual({ code: 0, stdout: 'typed\n', stderr: '' });
  });

  it('shows what is known of one, and its logs', async () => {
    const { sandboxId } = sandbox;
    const info = await run('info', '--format', 'json', sandboxId);
    expect(JSON.parse(info.stdout)).toMatchObject({ sandboxId, templateId: TEMPLATE, state: 'running' });
    const logs = await run('logs', sandboxId);
    expect(logs).toMatchObject({ code: 0, stdout: expect.stringContaining(`Logs for sandbox ${sandboxId}`) });
    // The commands of the case before.
    expect(logs.stdout).toMatch(/INFO.*process \d+ ended: exit status 3/);
    const metrics = await run('metrics', '--format', 'json', sandboxId);
    expect(JSON.parse(metrics.stdout.trim().split('\n')[0] ?? '')).toMatchObject({ cpuCount: 1 });
  });

  it('pauses, resumes and kills', async () => {
    const { sandboxId } = sandbox;
    expect((await run('pause', sandboxId)).stdout).toContain('has been paused');
    expect((await run('list', '--state', 'paused')).stdout).toContain(sandboxId);
    expect((await run('resume', sandboxId)).stdout).toContain('has been resumed');
    expect((await run('exec', sandboxId, 'echo', 'again')).stdout).toBe('again\n');
    expect((await run('kill', sandboxId)).stdout).toContain('has been killed');
    const gone = await run('kill', sandboxId);
    expect(gone.stdout + gone.stderr).toContain("wasn't found");
    expect((await run('info', sandboxId)).code).toBe(1);
  });
}

async function ended(child: ChildProcess): Promise<Result> {
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]?.on('data', (chunk: Buffer) => {
      output[name] += chunk;
    });
  }
  child.stdin?.end();
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, ...output };
}

export function interpreterCases(serverOf: () => SdkServer): void {
  const undo: (() => void)[] = [];
  beforeAll(() => {
    // The server that runs code is at a name of its own, and there is no setting for it.
    undo.push(useSettings('domain', serverOf()), trust(serverOf().certificate));
  });
  afterAll(() => {
    for (const each of undo.reverse()) each();
  });

  it('is a sandbox like any other, but for the code that its template would run', async () => {
    const sandbox = await Interpreter.create(TEMPLATE, { timeoutMs: 60_000 });
    try {
      expect((await sandbox.commands.run('echo here')).stdout).toBe('here\n');
      await sandbox.files.write('/tmp/note', 'kept');
      const again = await Interpreter.connect(sandbox.sandboxId);
      expect(again).toBeInstanceOf(Interpreter);
      expect(await again.files.read('/tmp/note')).toBe('kept');
      await expect(again.runCode('1 + 1')).rejects.toThrow();
    } finally {
      await sandbox.kill();
    }
    await expect(Interpreter.create()).rejects.toThrow(/404.*code-interpreter/);
  });
}

/** As people do who have names for their host: TLS, a name for each port, and URLs that need no header. */
export function domainCases(serverOf: () => SdkServer): void {
  const undo: (() => void)[] = [];
  beforeAll(() => {
    undo.push(useSettings('domain', serverOf()), trust(serverOf().certificate));
  });
  afterAll(() => {
    for (const each of undo.reverse()) each();
  });

  it('is enough to find everything', async () => {
    const sandbox = await Sandbox.create(TEMPLATE, { timeoutMs: 60_000 });
    try {
      expect((await sandbox.commands.run('echo by name')).stdout).toBe('by name\n');
      await sandbox.files.write('/tmp/note', 'by name');
      const url = await sandbox.downloadUrl('/tmp/note', { useSignatureExpiration: 60 });
      expect(new URL(url).host).toBe(sandbox.getHost(49983));
      expect(await (await fetch(url)).text()).toBe('by name');
    } finally {
      await sandbox.kill();
    }
  });
}
