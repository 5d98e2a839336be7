/** sandbox.commands and sandbox.pty. */
import { expect, it } from 'vitest';
import type { Context } from './context.ts';

const encoder = new TextEncoder();

export function commandCases(context: Context): void {
  it('run to their end, with output as it comes, variables, a directory and a user', async () => {
    const { sandbox } = context;
    const [out, err]: string[][] = [[], []];
    const script = 'echo "$GLOBAL/$OWN"; pwd; whoami; echo oops >&2';
    const result = await sandbox.commands.run(script, {
      envs: { OWN: 'from run' },
      cwd: '/tmp',
      onStdout: (text) => void out?.push(text),
      onStderr: (text) => void err?.push(text),
    });
    expect(result).toMatchObject({
      exitCode: 0,
      stdout: 'from create/from run\n/tmp\nuser\n',
      stderr: 'oops\n',
    });
    expect([out?.join(''), err?.join('')]).toEqual([result.stdout, result.stderr]);
    const root = await sandbox.commands.run('whoami; pwd; echo $HOME; sudo -n true && echo ok', {
      user: 'root',
    });
    expect(root.stdout).toBe('root\n/home/user\n/root\nok\n');
    const told = await sandbox.commands.run('echo $E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID; cd; pwd');
    expect(told.stdout).toBe(`true ${sandbox.sandboxId} base\n/home/user\n`);
  });

  it('fail with their exit code, and are refused with the right error', async () => {
    const { sandbox, sdk } = context;
    const failed = await sandbox.commands.run('echo so; exit 42').catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(sdk.CommandExitError);
    expect(failed).toMatchObject({ exitCode: 42, stdout: 'so\n', error: 'exit status 42' });
    const refused = (options: object) => expect(sandbox.commands.run('true', options)).rejects;
    await refused({ cwd: '/no/such' }).toBeInstanceOf(sdk.InvalidArgumentError);
    await refused({ user: 'nobody-here' }).toBeInstanceOf(sdk.AuthenticationError);
    await expect(sandbox.commands.connect(999_999)).rejects.toBeInstanceOf(sdk.NotFoundError);
    await expect(sandbox.commands.sendStdin(999_999, 'x')).rejects.toBeInstanceOf(sdk.NotFoundError);
    expect(await sandbox.commands.kill(999_999)).toBe(false);
  });

  it('time out, and are gone then', async () => {
    const { sandbox, sdk } = context;
    const late = sandbox.commands.run('sleep 61', { timeoutMs: 700 });
    await expect(late).rejects.toBeInstanceOf(sdk.TimeoutError);
    await expect
      .poll(
        async () => (await sandbox.commands.list()).filter(({ args }) => args.join(' ').includes('sleep 61')),
        {
          timeout: 20_000,
        },
      )
      .toEqual([]);
  });

  it('run in the background: listed, connected to, given input, killed', async () => {
    const { sandbox, sdk } = context;
    const command = await sandbox.commands.run('read line; echo "<$line>"; cat; echo bye', {
      background: true,
      stdin: true,
      envs: { MARK: 'listed' },
      cwd: '/tmp',
    });
    const listed = (await sandbox.commands.list()).find(({ pid }) => pid === command.pid);
    expect(listed).toMatchObject({ cmd: '/bin/bash', cwd: '/tmp', envs: { MARK: 'listed' } });
    let heard = '';
    const connected = await sandbox.commands.connect(command.pid, {
      onStdout: (text) => {
        heard += text;
      },
    });
    await sandbox.commands.sendStdin(command.pid, 'ä line\n');
    // Each has a stream of its own.
    await expect
      .poll(() => [heard, command.stdout], { timeout: 20_000 })
      .toEqual(['<ä line>\n', '<ä line>\n']);
    expect([command.stderr, command.exitCode, command.error]).toEqual(['', undefined, undefined]);
    if (context.has('handle#sendStdin')) await command.sendStdin(encoder.encode('through its handle\n'));
    else await sandbox.commands.sendStdin(command.pid, 'through its handle\n');
    if (context.has('commands#closeStdin')) {
      expect(sandbox.commands.supportsStdinClose).toBe(true);
      if (context.has('handle#closeStdin')) await connected.closeStdin();
      await sandbox.commands.closeStdin(command.pid).catch((error: unknown) => {
        // It may have ended already.
        expect(error).toBeInstanceOf(sdk.NotFoundError);
      });
      const whole = '<ä line>\nthrough its handle\nbye\n';
      expect(await command.wait()).toMatchObject({ exitCode: 0, stdout: whole });
      expect(await connected.wait()).toMatchObject({ exitCode: 0, stdout: whole });
    } else {
      expect(await command.kill()).toBe(true);
      await expect(connected.wait()).rejects.toBeInstanceOf(sdk.CommandExitError);
    }

    const endless = await sandbox.commands.run('sleep 100', { background: true, timeoutMs: 0 });
    expect(await sandbox.commands.kill(endless.pid)).toBe(true);
    await expect(endless.wait()).rejects.toThrow('signal: killed');
    expect(await sandbox.commands.kill(endless.pid)).toBe(false);
    const other = await sandbox.commands.run('sleep 100', { background: true });
    expect(await other.kill()).toBe(true);
  });

  it('go on when nobody listens any more', async () => {
    const { sandbox } = context;
    const script = 'until test -e /tmp/go; do sleep 0.1; done; echo end; exit 5';
    const command = await sandbox.commands.run(script, { background: true });
    await command.disconnect();
    const again = await sandbox.commands.connect(command.pid);
    await sandbox.files.write('/tmp/go', 'on');
    await expect(again.wait()).rejects.toMatchObject({ exitCode: 5, stdout: 'end\n' });
  });

  it('pass much output, and bytes that are cut in the middle of a character', async () => {
    const { sandbox } = context;
    const { stdout } = await sandbox.commands.run(
      `python3 -c 'import sys; sys.stdout.write("é" * 1000000)'; printf '\\303'; sleep 0.3; printf '\\251\\n'`,
    );
    expect(stdout.startsWith('é'.repeat(1000))).toBe(true);
    // Older ones decode each piece by itself.
    if (context.version.minor <= 25) return;
    expect(stdout.length).toBe(1_000_002);
    expect(stdout.endsWith('éé\n')).toBe(true);
  });

  it.runIf(context.isNewest)('tell of an abort and of a request that takes too long', async () => {
    const { sandbox, sdk } = context;
    const controller = new AbortController();
    const command = sandbox.commands.run('sleep 62', { signal: controller.signal });
    setTimeout(() => controller.abort(), 500);
    await expect(command).rejects.toThrow();
    for (const { pid, args } of await sandbox.commands.list()) {
      if (args.join(' ').includes('sleep 62')) await sandbox.commands.kill(pid);
    }
    await expect(sandbox.commands.list({ requestTimeoutMs: 1 })).rejects.toBeInstanceOf(sdk.TimeoutError);
  });
}

export function terminalCases(context: Context): void {
  it('is interactive, has a size that changes, and ends with a code', async () => {
    const { sandbox } = context;
    let output = '';
    const terminal = await sandbox.pty.create({
      cols: 90,
      rows: 30,
      cwd: '/tmp',
      envs: { OWN: 'variable' },
      onData: (data) => {
        output += new TextDecoder().decode(data);
      },
    });
    const type = (text: string) => sandbox.pty.sendInput(terminal.pid, encoder.encode(text));
    await type('echo $TERM $OWN; pwd; whoami; stty size\n');
    await expect
      .poll(() => output, { timeout: 20_000 })
      .toContain('xterm-256color variable\r\n/tmp\r\nuser\r\n30 90\r\n');
    await sandbox.pty.resize(terminal.pid, { cols: 100, rows: 40 });
    if (context.has('pty#connect')) {
      let seen = '';
      const again = await sandbox.pty.connect(terminal.pid, {
        onData: (data) => {
          seen += new TextDecoder().decode(data);
        },
      });
      await type('stty size\n');
      await expect.poll(() => seen, { timeout: 20_000 }).toContain('40 100\r\n');
      await again.disconnect();
    }
    await type('stty size; exit 6\n');
    await expect(terminal.wait()).rejects.toMatchObject({ exitCode: 6 });
    expect(output).toContain('40 100\r\n');
  });

  it('can be killed', async () => {
    const { sandbox } = context;
    const terminal = await sandbox.pty.create({
      cols: 80,
      rows: 24,
      user: 'root',
      onData: () => {},
      timeoutMs: 0,
    });
    expect(await sandbox.pty.kill(terminal.pid)).toBe(true);
    await expect(terminal.wait()).rejects.toThrow('signal: killed');
    expect(await sandbox.pty.kill(terminal.pid)).toBe(false);
  });
}
