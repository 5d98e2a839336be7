import { describe, expect, it, vi } from 'vitest';
import { runCommand } from './command.ts';
import { identify, isAlive } from './process.ts';

const timeoutMs = 10_000;

/** One that would sleep for a minute, cancelled when it has said its pid; 0 is none. */
function startAndCancel(): { readonly running: Promise<unknown>; pid(): number } {
  const controller = new AbortController();
  let pid = 0;
  const running = runCommand('sh', ['-c', 'echo $$; exec sleep 60'], {
    timeoutMs,
    signal: controller.signal,
    onLine: (line) => {
      pid = Number(line);
      controller.abort();
    },
  });
  return { running, pid: () => pid };
}

describe('a program', () => {
  it('gets its input and gives its output', async () => {
    expect(await runCommand('cat', [], { timeoutMs, input: 'hello' })).toEqual({
      stdout: 'hello',
      stderr: '',
    });
    expect((await runCommand('cat', [], { timeoutMs, input: new Uint8Array([104, 105]) })).stdout).toBe('hi');
  });

  it('gets nothing of our environment', async () => {
    const { stdout } = await runCommand('env', [], { timeoutMs });
    expect(
      stdout
        .trim()
        .split('\n')
        .map((line) => line.split('=')[0])
        .sort(),
    ).toEqual(['HOME', 'LC_ALL', 'PATH']);
  });

  it('that is missing is named with its package', async () => {
    await expect(runCommand('nft-that-is-not-there', [], { timeoutMs })).rejects.toMatchObject({
      code: 'missing_program',
      hint: 'apt-get install nft-that-is-not-there',
    });
    await expect(runCommand('ip', [], { timeoutMs, env: { PATH: '/nowhere' } })).rejects.toMatchObject({
      code: 'missing_program',
      hint: 'apt-get install iproute2',
    });
  });

  it('that fails is told with its exit code and its last words', async () => {
    await expect(runCommand('ls', ['/nowhere'], { timeoutMs })).rejects.toMatchObject({
      code: 'command_failed',
      message: expect.stringMatching(/ls \/nowhere failed with exit code 2: .*No such file/),
    });
  });

  it('that takes too long is ended', async () => {
    await expect(runCommand('sleep', ['60'], { timeoutMs: 50 })).rejects.toMatchObject({
      code: 'deadline_exceeded',
    });
  });

  it('that prints without end is ended', async () => {
    await expect(runCommand('yes', [], { timeoutMs, maxOutputBytes: 1000 })).rejects.toMatchObject({
      code: 'command_failed',
      message: expect.stringContaining('more than 1000 bytes'),
    });
  });

  it('that is cancelled is gone when that is told', async () => {
    const { running, pid } = startAndCancel();
    await expect(running).rejects.toMatchObject({ code: 'cancelled' });
    expect(pid()).toBeGreaterThan(0);
    const identity = await identify(pid());
    expect(identity === undefined || !(await isAlive(identity))).toBe(true);
  });

  it("that may not be ended, as what sudo runs, is given up and fails nobody else's work", async () => {
    const kill = vi.spyOn(process, 'kill').mockImplementation(() => {
      throw Object.assign(new Error('kill EPERM'), { code: 'EPERM', syscall: 'kill' });
    });
    const { running, pid } = startAndCancel();
    try {
      await expect(running).rejects.toMatchObject({ code: 'cancelled' });
      expect(kill).toHaveBeenCalledWith(-pid(), 'SIGKILL');
    } finally {
      kill.mockRestore();
      if (pid() > 0) process.kill(pid(), 'SIGKILL');
    }
  });

  it('is not even started when it was cancelled before', async () => {
    const signal = AbortSignal.abort();
    await expect(runCommand('true', [], { timeoutMs, signal })).rejects.toMatchObject({ code: 'cancelled' });
  });
});
