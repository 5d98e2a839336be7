import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { runUnbroken } from './unbroken.ts';

const waitMs = 15_000;

let place = '';
beforeEach(() => {
  place = mkdtempSync(join(tmpdir(), 'wrenn-unbroken-'));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(place, { recursive: true });
});

describe('a program that is not to be broken off', () => {
  it('is told of line by line', async () => {
    const lines: string[] = [];
    const onLine = (line: string) => lines.push(line);
    await runUnbroken('sh', ['-c', 'echo one; echo two >&2; printf "three\\n"'], { waitMs, onLine });
    expect(lines).toEqual(['one', 'two', 'three']);
  });

  it('is in a session of its own, where no terminal reaches it', async () => {
    const lines: string[] = [];
    const onLine = (line: string) => lines.push(line);
    await runUnbroken('sh', ['-c', 'echo $$; cut -d" " -f6 /proc/$$/stat'], { waitMs, onLine });
    expect(lines[1]).toBe(lines[0]);
  });

  it('that fails is told with its exit code and its last words', async () => {
    await expect(runUnbroken('ls', ['/nowhere'], { waitMs })).rejects.toMatchObject({
      code: 'command_failed',
      message: expect.stringMatching(/ls \/nowhere failed with exit code 2: .*No such file/),
    });
    const missing = runUnbroken('dpkg-that-is-not-there', [], { waitMs });
    await expect(missing).rejects.toMatchObject({ code: 'missing_program' });
  });

  it('goes on when nobody waits for it any longer, and leaves no file', async () => {
    const done = join(place, 'done');
    const script = ['-c', 'sleep 1; echo said; echo went on > "$0"', done];
    vi.stubEnv('TMPDIR', place);
    await expect(runUnbroken('sh', script, { waitMs: 50 })).rejects.toMatchObject({
      code: 'deadline_exceeded',
      hint: expect.stringMatching(/process \d+/),
    });
    expect(existsSync(done)).toBe(false);
    await expect.poll(() => existsSync(done) && readFileSync(done, 'utf8')).toBe('went on\n');
    expect(readdirSync(place)).toEqual(['done']);
  });

  it('goes on when who started it is killed', { timeout: 60_000 }, async () => {
    const done = join(place, 'done');
    const began = join(place, 'began');
    // It prints after the other's death, which a pipe would not outlive.
    const script = 'echo > "$1"; sleep 1; for n in 1 2 3; do echo line $n; done && echo went on > "$0"';
    const program = join(place, 'starter.mjs');
    writeFileSync(
      program,
      `import { build } from ${JSON.stringify(import.meta.resolve('esbuild'))};
       const outfile = ${JSON.stringify(join(place, 'unbroken.mjs'))};
       await build({ entryPoints: [${JSON.stringify(join(import.meta.dirname, 'unbroken.ts'))}], outfile,
         bundle: true, platform: 'node', format: 'esm' });
       const { runUnbroken } = await import(outfile);
       await runUnbroken('sh', ['-c', ${JSON.stringify(script)}, ...${JSON.stringify([done, began])}], { waitMs: 60_000 });`,
    );
    const starter = spawn(process.execPath, [program], { stdio: 'inherit' });
    await expect.poll(() => existsSync(began) && statSync(began).size > 0, { timeout: 30_000 }).toBe(true);
    starter.kill('SIGKILL');
    await expect.poll(() => existsSync(done) && readFileSync(done, 'utf8')).toBe('went on\n');
  });
});
