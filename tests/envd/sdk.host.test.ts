/** The unmodified SDK against a bare envd. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Sandbox } from 'e2b';
import { CommandExitError, InvalidArgumentError, TimeoutError } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Envd, startEnvd } from './start-envd.ts';

let envd: Envd;
let sandbox: Sandbox;
beforeAll(async () => {
  envd = await startEnvd();
  sandbox = await envd.sandbox();
}, 60_000);
afterAll(() => envd.stop());

describe('commands', () => {
  it('run, with output, environment and directory', async () => {
    const seen: string[] = [];
    const result = await sandbox.commands.run('echo $GREETING; pwd; echo oops >&2', {
      envs: { GREETING: 'hello' },
      cwd: '/tmp',
      onStdout: (text) => {
        seen.push(text);
      },
    });
    expect(result).toMatchObject({ exitCode: 0, stdout: 'hello\n/tmp\n', stderr: 'oops\n' });
    expect(seen.join('')).toBe('hello\n/tmp\n');
  });

  it('fail with their exit code, and on bad requests', async () => {
    await expect(sandbox.commands.run('exit 42')).rejects.toMatchObject({ exitCode: 42 });
    await expect(sandbox.commands.run('exit 42')).rejects.toBeInstanceOf(CommandExitError);
    await expect(sandbox.commands.run('true', { cwd: '/no/such' })).rejects.toBeInstanceOf(
      InvalidArgumentError,
    );
    await expect(sandbox.commands.run('true', { user: 'nonesuch' })).rejects.toThrow(
      "invalid username: 'nonesuch'",
    );
  });

  it('time out', async () => {
    await expect(sandbox.commands.run('sleep 30', { timeoutMs: 2000 })).rejects.toBeInstanceOf(TimeoutError);
    await expect.poll(async () => (await sandbox.commands.list()).length).toBe(0);
  });

  it('run in the background: list, connect, stdin, kill', async () => {
    const command = await sandbox.commands.run('cat; echo bye', { background: true, stdin: true });
    expect((await sandbox.commands.list()).map(({ pid }) => pid)).toContain(command.pid);
    const connected = await sandbox.commands.connect(command.pid);
    await sandbox.commands.sendStdin(command.pid, 'typed\n');
    await sandbox.commands.closeStdin(command.pid);
    expect(await command.wait()).toMatchObject({ stdout: 'typed\nbye\n' });
    expect(await connected.wait()).toMatchObject({ stdout: 'typed\nbye\n' });

    // Past the shell's start: what this machine's own profile does must not be cut in the middle.
    const options = { background: true, timeoutMs: 0 } as const;
    const endless = await sandbox.commands.run('echo up; exec sleep 100', options);
    await expect.poll(() => endless.stdout).toBe('up\n');
    expect(await sandbox.commands.kill(endless.pid)).toBe(true);
    await expect(endless.wait()).rejects.toThrow('signal: killed');
    expect(await sandbox.commands.kill(endless.pid)).toBe(false);
  });

  it('go on when the SDK disconnects', async () => {
    const command = await sandbox.commands.run('sleep 0.7; exit 5', { background: true });
    await command.disconnect();
    const again = await sandbox.commands.connect(command.pid);
    await expect(again.wait()).rejects.toMatchObject({ exitCode: 5 });
  });

  it('pass bytes that are no text, and much of them', async () => {
    const { stdout } = await sandbox.commands.run(
      'head -c 3000000 /dev/zero | tr "\\0" "é" | wc -c; printf "\\303\\251"',
    );
    expect(stdout).toBe('3000000\né');
  });
});

describe('pty', () => {
  it('is interactive', async () => {
    let output = '';
    const terminal = await sandbox.pty.create({
      cols: 90,
      rows: 30,
      onData: (data) => {
        output += new TextDecoder().decode(data);
      },
    });
    const type = (text: string) => sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode(text));
    await type('echo $TERM; stty size\n');
    await expect.poll(() => output).toContain('xterm-256color\r\n30 90\r\n');
    await sandbox.pty.resize(terminal.pid, { cols: 100, rows: 40 });
    await type('stty size; exit 6\n');
    await expect(terminal.wait()).rejects.toMatchObject({ exitCode: 6 });
    expect(output).toContain('40 100\r\n');
  });

  it('can be killed', async () => {
    let output = '';
    const onData = (data: Uint8Array) => {
      output += new TextDecoder().decode(data);
    };
    const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData });
    await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode('echo u""p\n'));
    await expect.poll(() => output, { timeout: 10_000 }).toContain('up\r\n');
    expect(await sandbox.pty.kill(terminal.pid)).toBe(true);
    await expect(terminal.wait()).rejects.toThrow('signal: killed');
  });
});

describe('git', () => {
  it('works through the helpers', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'wrenn-envd-git-'));
    try {
      const repository = join(directory, 'repo');
      await sandbox.git.init(repository);
      await sandbox.commands.run('echo text > file.txt', { cwd: repository });
      await sandbox.git.add(repository);
      await sandbox.git.commit(repository, 'First', { authorName: 'A', authorEmail: 'a@example.org' });
      expect(await sandbox.git.status(repository)).toMatchObject({ isClean: true });
      await sandbox.git.clone(repository, { path: join(directory, 'clone') });
      const { stdout } = await sandbox.commands.run('git log --format=%s', { cwd: join(directory, 'clone') });
      expect(stdout).toBe('First\n');
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

describe.runIf(process.getuid?.() === 0)('users', () => {
  const name = `wrenn-t${process.pid}`;
  const group = `wrenn-g${process.pid}`;
  const removals: (() => void)[] = [];
  beforeAll(() => {
    removals.push(() => execFileSync('groupdel', [group]));
    execFileSync('groupadd', [group]);
    removals.push(() => execFileSync('userdel', ['--force', '--remove', name], { stdio: 'ignore' }));
    execFileSync('useradd', ['--create-home', '--shell', '/bin/bash', '--groups', group, name]);
  });
  afterAll(() => {
    for (const remove of removals.reverse()) remove();
  });

  it('get exactly their uid, gid, groups and home, and no capability', async () => {
    const id = (option: string) => execFileSync('id', [option, name], { encoding: 'utf8' }).trim();
    const script =
      'id -u; id -g; id -G; pwd; echo $HOME $USER $LOGNAME; grep -E "^(Uid|Gid|CapPrm|CapEff|CapInh|CapAmb)" /proc/self/status';
    const { stdout } = await sandbox.commands.run(script, { user: name });
    const [uid = '', gid = ''] = [id('-u'), id('-g')];
    expect(stdout.split('\n')).toEqual([
      uid,
      gid,
      id('-G'),
      `/home/${name}`,
      `/home/${name} ${name} ${name}`,
      `Uid:\t${uid}\t${uid}\t${uid}\t${uid}`,
      `Gid:\t${gid}\t${gid}\t${gid}\t${gid}`,
      'CapInh:\t0000000000000000',
      'CapPrm:\t0000000000000000',
      'CapEff:\t0000000000000000',
      'CapAmb:\t0000000000000000',
      '',
    ]);
  });

  it('own their terminal and the pipes they print to', async () => {
    const { stdout } = await sandbox.commands.run('echo out > /dev/stdout; echo err > /dev/stderr', {
      user: name,
    });
    expect(stdout).toBe('out\n');
    let output = '';
    const terminal = await sandbox.pty.create({
      cols: 80,
      rows: 24,
      user: name,
      onData: (data) => {
        output += new TextDecoder().decode(data);
      },
    });
    const type = 'echo "owner $(stat -c %U $(tty))" > /dev/tty; exit\n';
    await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode(type));
    await terminal.wait();
    expect(output).toContain(`owner ${name}\r\n`);
  });

  it('cannot use a directory that is closed to them, and envd stays root', async () => {
    await expect(sandbox.commands.run('true', { user: name, cwd: '/root' })).rejects.toThrow(/EACCES|cannot/);
    const results = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        sandbox.commands.run('id -u', { user: i % 2 === 0 ? name : 'root' }),
      ),
    );
    expect(new Set(results.filter((_, i) => i % 2 === 1).map(({ stdout }) => stdout))).toEqual(
      new Set(['0\n']),
    );
    expect(envd.log()).not.toMatch(/credentials/);
  });
});
