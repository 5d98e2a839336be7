import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CLI, createFixture, type Fixture, leftovers } from './wrenn.ts';

let wrenn: Fixture;
beforeAll(() => {
  wrenn = createFixture();
});
afterAll(() => wrenn.close());

describe('wrenn run', () => {
  it('passes stdin, both outputs and the exit code on, and leaves nothing', async () => {
    const result = await wrenn.run(['run', '--', 'sh', '-c', 'cat; echo err >&2; exit 7'], 'hello');
    expect(result).toEqual({ code: 7, stdout: 'hello', stderr: 'err\n' });
    expect(leftovers(join(wrenn.directory, 'state'))).toEqual([]);
  });

  it('destroys its sandbox when it is told to end', async () => {
    const child = wrenn.start(['run', '--', 'sh', '-c', 'echo up; sleep 1000']);
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    child.kill('SIGTERM');
    const code = await new Promise((resolve) => child.once('close', resolve));
    expect(code).toBe(143);
    expect(leftovers(join(wrenn.directory, 'state'))).toEqual([]);
  });

  it('destroys its sandbox where its output cannot be written, and says so in a line', async () => {
    const full = openSync('/dev/full', 'w');
    const child = spawn(process.execPath, [CLI, 'run', '--', 'yes'], {
      env: wrenn.env,
      stdio: ['ignore', full, 'pipe'],
    });
    closeSync(full);
    let said = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    expect(await new Promise((resolve) => child.once('close', resolve))).toBe(125);
    expect(said).toBe('wrenn: The output cannot be written: its disk is full.\n');
    expect(leftovers(join(wrenn.directory, 'state'))).toEqual([]);
  });

  it('destroys its sandbox when its reader leaves', async () => {
    const child = wrenn.start(['run', '--', 'yes']);
    child.stdout.once('data', () => child.stdout.destroy());
    expect(await new Promise((resolve) => child.once('exit', resolve))).toBe(141);
    expect(leftovers(join(wrenn.directory, 'state'))).toEqual([]);
  });
});

describe('wrenn sandbox create', () => {
  it('leaves nothing when it is interrupted', async () => {
    const child = wrenn.start(['sandbox', 'create']);
    let stdout = '';
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString();
    });
    const ended = new Promise((resolve) => child.once('close', resolve));
    await expect
      .poll(async () => JSON.parse((await wrenn.run(['sandbox', 'ls', '--json'])).stdout))
      .toMatchObject([{ state: 'creating' }]);
    child.kill('SIGINT');
    expect(await ended).toBe(130);
    expect(stdout).toBe('');
    expect(leftovers(join(wrenn.directory, 'state'))).toEqual([]);
  });

  it('leaves nothing where it cannot say what it has made', async () => {
    const full = openSync('/dev/full', 'w');
    const child = spawn(process.execPath, [CLI, 'sandbox', 'create'], {
      env: wrenn.env,
      stdio: ['ignore', full, 'ignore'],
    });
    closeSync(full);
    expect(await new Promise((resolve) => child.once('close', resolve))).toBe(4);
    expect(leftovers(join(wrenn.directory, 'state'))).toEqual([]);
  });
});

describe('wrenn sandbox', () => {
  let id: string;
  beforeAll(async () => {
    const created = await wrenn.run([
      'sandbox',
      'create',
      '--json',
      '--env',
      'COLOUR=blue',
      '--metadata',
      'a=b',
    ]);
    expect(created.stderr).toBe('');
    id = JSON.parse(created.stdout).id;
  });
  afterAll(async () => {
    expect(await wrenn.run(['sandbox', 'kill', id])).toMatchObject({ code: 0 });
    expect(await wrenn.run(['sandbox', 'get', id])).toMatchObject({ code: 3 });
  });

  it('is listed and shown', async () => {
    const [listed] = JSON.parse((await wrenn.run(['sandbox', 'ls', '--json'])).stdout);
    expect(listed).toMatchObject({ id, state: 'running', template: 'minimal', metadata: { a: 'b' } });
    expect((await wrenn.run(['sandbox', 'ls'])).stdout).toContain(`${id}  minimal   running`);
  });

  it('runs commands with its environment, as a user, and knows who it is', async () => {
    const script = 'echo $COLOUR $MORE $E2B_SANDBOX_ID; id -un; pwd';
    const as = await wrenn.run(['sandbox', 'exec', '--env', 'MORE=1', id, '--', 'sh', '-c', script]);
    expect(as.stdout).toBe(`blue 1 ${id}\nuser\n/home/user\n`);
    const root = await wrenn.run([
      'sandbox',
      'exec',
      '--user',
      'root',
      '--cwd',
      '/tmp',
      id,
      '--',
      'sh',
      '-c',
      'id -u; pwd',
    ]);
    expect(root.stdout).toBe('0\n/tmp\n');
  });

  it('gives a command no standard input where it is asked not to', async () => {
    const child = wrenn.start(['sandbox', 'exec', '-n', id, '--', 'cat']);
    expect(await new Promise((resolve) => child.once('close', resolve))).toBe(0);
  });

  it('tells signals and timeouts by the exit code', async () => {
    expect(await wrenn.run(['sandbox', 'exec', id, '--', 'sh', '-c', 'kill -9 $$'])).toMatchObject({
      code: 137,
    });
    const late = await wrenn.run(['sandbox', 'exec', '--timeout', '1s', id, '--', 'sleep', '100']);
    expect(late).toMatchObject({ code: 124, stdout: '' });
  });

  it('gives a terminal', async () => {
    // script(1) makes the terminal that this test has not; its typescript goes nowhere.
    const command = `${process.execPath} ${CLI} sandbox exec -t ${id} -- sh -c 'test -t 0 && test -t 1 && echo a terminal'`;
    const child = spawn('script', ['-qec', command, '/dev/null'], {
      env: wrenn.env,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
    expect(await new Promise((resolve) => child.once('close', resolve))).toBe(0);
    expect(output).toContain('a terminal');
  });

  it('copies files and directories both ways, with their modes', async () => {
    const source = join(wrenn.directory, 'tree');
    mkdirSync(join(source, 'deep'), { recursive: true });
    const bytes = randomBytes(3 * 1024 * 1024 + 17);
    writeFileSync(join(source, 'deep/data'), bytes);
    writeFileSync(join(source, 'tool'), '#!/bin/sh\necho it runs\n');
    chmodSync(join(source, 'tool'), 0o755);
    symlinkSync('/etc/shadow', join(source, 'link'));
    expect(await wrenn.run(['sandbox', 'cp', source, `${id}:/home/user`])).toMatchObject({
      code: 0,
      stderr: `wrenn: ${source}/link was not copied: a symbolic link\n`,
    });
    expect((await wrenn.run(['sandbox', 'exec', id, '--', 'tree/tool'])).stdout).toBe('it runs\n');
    const sum = (await wrenn.run(['sandbox', 'exec', id, '--', 'sha256sum', 'tree/deep/data'])).stdout.split(
      ' ',
    )[0];
    expect(sum).toBe(createHash('sha256').update(bytes).digest('hex'));

    const back = join(wrenn.directory, 'back');
    const harm = 'cd tree && ln -s / all && ln -s nowhere dangling && mkfifo pipe';
    expect(await wrenn.run(['sandbox', 'exec', id, '--', 'sh', '-c', harm])).toMatchObject({ code: 0 });
    expect(await wrenn.run(['sandbox', 'cp', `${id}:/home/user/tree`, back])).toMatchObject({
      code: 0,
      stderr: [
        'wrenn: /home/user/tree/all was not copied: a symbolic link',
        'wrenn: /home/user/tree/dangling was not copied: a symbolic link',
        'wrenn: /home/user/tree/pipe was not copied: neither a file nor a directory',
        '',
      ].join('\n'),
    });
    expect(readdirSync(back)).toEqual(['deep', 'tool']);
    expect(readFileSync(join(back, 'deep/data')).equals(bytes)).toBe(true);
    expect(statSync(join(back, 'tool')).mode & 0o777).toBe(0o755);
    expect((await wrenn.run(['sandbox', 'cp', '-', `${id}:/tmp/in`], 'through a pipe')).code).toBe(0);
    expect((await wrenn.run(['sandbox', 'cp', `${id}:/tmp/in`, '-'])).stdout).toBe('through a pipe');
  });

  it('is paused, refuses commands, and goes on', async () => {
    expect(await wrenn.run(['sandbox', 'pause', id])).toMatchObject({ code: 0 });
    expect(await wrenn.run(['sandbox', 'exec', id, '--', 'true'])).toMatchObject({
      code: 125,
      stderr: /is paused/,
    });
    expect(await wrenn.run(['sandbox', 'pause', id])).toMatchObject({ code: 5 });
    expect(await wrenn.run(['sandbox', 'resume', id])).toMatchObject({ code: 0 });
    expect(await wrenn.run(['sandbox', 'exec', id, '--', 'echo', 'awake'])).toMatchObject({
      stdout: 'awake\n',
    });
  });

  it('shows its console', async () => {
    expect((await wrenn.run(['sandbox', 'logs', id])).stdout).toContain('wrenn-init: starting envd');
  });

  it('hibernates, is copied, and its snapshot stays as long as it is used', async () => {
    const run = async (...args: string[]) => {
      const { code, stdout, stderr } = await wrenn.run(['sandbox', ...args]);
      expect(code, stderr).toBe(0);
      return stdout.trim();
    };
    const shell = (of: string, script: string) => run('exec', of, '--', 'sh', '-c', script);
    await shell(id, 'echo kept > /tmp/kept');
    expect(await run('hibernate', id)).toBe(id);
    const asleep = await wrenn.run(['sandbox', 'exec', id, '--', 'true']);
    expect(asleep).toMatchObject({ code: 125, stderr: expect.stringContaining('hibernate') });
    expect(await run('resume', id)).toBe(id);
    expect(await shell(id, 'cat /tmp/kept')).toBe('kept');

    const snapshot = await run('snapshot', id);
    const fromSnapshot = await run('create', '--snapshot', snapshot);
    const [fork = ''] = (await run('fork', id)).split('\n');
    for (const copy of [fromSnapshot, fork])
      expect(await shell(copy, 'cat /tmp/kept; hostname')).toContain('kept');
    expect(await wrenn.run(['snapshot', 'rm', snapshot])).toMatchObject({ code: 5 });
    const killed = await wrenn.run(['sandbox', 'kill', fromSnapshot, 'a'.repeat(20), fork]);
    expect(killed).toMatchObject({ code: 3, stdout: `${fromSnapshot}\n${fork}\n` });
    expect(await wrenn.run(['snapshot', 'rm', snapshot])).toMatchObject({ code: 0 });
    expect((await wrenn.run(['snapshot', 'ls', '--json'])).stdout.trim()).toBe('[]');
  });

  it('ends at its time', async () => {
    const short = (await wrenn.run(['sandbox', 'create', '--timeout', '1s'])).stdout.trim();
    await expect
      .poll(() => wrenn.run(['sandbox', 'get', short]), { timeout: 30_000 })
      .toMatchObject({ code: 3 });
  });
});

describe('what is wrong gets a code and changes nothing', () => {
  const unknown = 'a'.repeat(20);
  it.each([
    [['run', '--template', 'nope', '--', 'true'], 125, 'There is no template'],
    [['sandbox', 'create', '--json', '--template', 'nope'], 3, '"code":"template_not_found"'],
    [['sandbox', 'create', '--json', '--cpus', '0'], 2, '"code":"invalid_argument"'],
    [['sandbox', 'create', '--json', '--cpus', '9999'], 2, '"code":"vcpus_exceed_host"'],
    [['sandbox', 'create', '--json', '--memory', '9999G'], 2, '"code":"memory_exceeds_host"'],
    [['sandbox', 'create', '--json', '--memory', '1M'], 2, '"code":"invalid_argument"'],
    [['sandbox', 'create', '--json', '--memory', 'much'], 2, '"field":"--memory"'],
    [['sandbox', 'create', '--json', '--env', 'A'], 2, 'NAME=value'],
    [['sandbox', 'get', '--json', '../../etc'], 2, '"code":"invalid_sandbox_id"'],
    [['sandbox', 'get', '--json', unknown], 3, '"code":"sandbox_not_found"'],
    [['sandbox', 'exec', unknown, '--', 'true'], 125, 'There is no sandbox'],
    [['sandbox', 'cp', 'a', 'b'], 2, 'must be in a sandbox'],
    [['sandbox', 'frobnicate'], 2, 'Unknown command'],
    [['run'], 2, 'Missing required argument'],
    [['run', '--timeout', 'soon', 'true', '--json'], 125, 'wrenn: "soon" is not'],
    [['sandbox', 'get', '--json'], 2, '"code":"invalid_argument"'],
  ])('%j', async (args, code, told) => {
    const result = await wrenn.run(args);
    expect(result.stderr).toContain(told);
    expect(result.stderr).not.toContain('    at ');
    expect(result.code).toBe(code);
    expect(JSON.parse((await wrenn.run(['sandbox', 'ls', '--json'])).stdout)).toEqual([]);
  });
});

describe('without a set-up', () => {
  it('says what is missing and the command that brings it', async () => {
    const empty = createFixture({ imagesDir: '/nonexistent' });
    try {
      const result = await empty.run(['run', '--', 'true']);
      expect(result).toMatchObject({ code: 125, stdout: '' });
      expect(result.stderr).toMatch(/did not start: The guest kernel is not there/);
      expect(result.stderr).toContain('hint: Run: wrenn setup');
    } finally {
      await empty.close();
    }
  });
});
