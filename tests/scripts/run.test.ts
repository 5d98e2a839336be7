/** What a script of this repository does when it is told to end while a program that it has started is at work. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, describe, expect, it } from 'vitest';

const LIB = new URL('../../scripts/lib.mjs', import.meta.url).href;
/** Says that it works, and takes its time to clean up. */
const PROGRAM = `
  const end = () => setTimeout(() => { console.log('cleaned'); process.exit(7); }, 100);
  process.once('SIGTERM', end).once('SIGINT', end);
  setInterval(() => {}, 1000);
  console.log('works');`;
const SCRIPT = `
  import { run } from ${JSON.stringify(LIB)};
  console.log('ended with', await run(process.execPath, ['--eval', process.argv[1]]));`;

let child: ChildProcess;
let closed: Promise<unknown[]>;
afterEach(() => {
  // With all that it started.
  if (child.exitCode === null && child.signalCode === null)
    process.kill(-(child.pid ?? Number.NaN), 'SIGKILL');
});

async function start(program: string): Promise<{ told: () => string }> {
  const args = ['--input-type=module', '--eval', SCRIPT, program];
  child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'], detached: true });
  closed = once(child, 'close');
  let told = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    told += chunk.toString();
  });
  await expect.poll(() => told, { timeout: 10_000 }).toContain('works');
  return { told: () => told };
}

describe('a program that a script runs', () => {
  it.each([
    ['SIGTERM to the script alone', () => process.kill(child.pid ?? Number.NaN, 'SIGTERM')],
    ['Ctrl+C, which reaches both', () => process.kill(-(child.pid ?? Number.NaN), 'SIGINT')],
  ])('is waited for after %s, and nothing comes after it', async (_, end) => {
    const { told } = await start(PROGRAM);
    end();
    const [code] = await closed;
    expect(told()).toBe('works\ncleaned\n');
    expect(code).toBe(7);
  });

  it('passes its exit code on', async () => {
    const { told } = await start("console.log('works'); process.exitCode = 3;");
    await closed;
    expect(told()).toBe('works\nended with 3\n');
  });
});
