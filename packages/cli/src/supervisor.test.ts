import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { type Supervised, type SupervisedOptions, supervise } from './supervisor.ts';

let running: Supervised | undefined;
let said: string[] = [];
let restarts: number[] = [];
afterEach(async () => {
  await running?.stop();
  said = [];
  restarts = [];
});

function start(script: string, options: Partial<SupervisedOptions> = {}): Supervised {
  running = supervise({
    words: ['test'],
    program: [process.execPath, '-e', script],
    env: {},
    onStdout: (line) => said.push(line),
    onStderr: (line) => said.push(line),
    onRestart: (_, pauseMs) => restarts.push(pauseMs),
    firstPauseMs: 10,
    ...options,
  });
  return running;
}

const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};
const LIVES = 'console.log(process.pid); setInterval(() => {}, 1000);';

describe('a process that is looked after', () => {
  it('is not started again if it never came up', async () => {
    const { gaveUp } = start('process.exit(7)');
    expect((await gaveUp).message).toBe('wrenn test ended with exit code 7.');
    expect(restarts).toEqual([]);
  });

  it('is started again with other words, where it has them', async () => {
    const script = 'console.log(process.argv.slice(1).join()); setTimeout(() => process.exit(1), 50)';
    const process_ = start(script, { words: ['test', 'once'], wordsAgain: ['test'] });
    process_.ready();
    await process_.gaveUp;
    expect(said).toEqual(['test,once', ...Array.from({ length: 5 }, () => 'test')]);
  });

  it('is started again when it dies, each time a while later, and given up in the end', async () => {
    const process_ = start('console.log(process.pid); setTimeout(() => process.exit(1), 50)');
    process_.ready();
    expect((await process_.gaveUp).code).toBe('agent_not_running');
    expect(restarts).toEqual([10, 20, 40, 80, 160]);
    expect(new Set(said).size).toBe(6);
  });

  it('is not started again when it is killed by whoever cannot wait', async () => {
    const process_ = start(LIVES);
    process_.ready();
    await expect.poll(() => said, { timeout: 5000 }).toHaveLength(1);
    process_.kill();
    await expect.poll(() => isAlive(Number(said[0])), { timeout: 5000 }).toBe(false);
    await process_.stop();
    await sleep(100);
    expect([restarts, said.length]).toEqual([[], 1]);
  });

  it('is not started while another one does its work, and is when that has ended', async () => {
    let isReplaced = true;
    const process_ = start(LIVES, { isReplaced: async () => isReplaced });
    process_.ready();
    await sleep(200);
    expect(said).toEqual([]);
    isReplaced = false;
    await expect.poll(() => said).toHaveLength(1);
    // Another one is there when it dies.
    isReplaced = true;
    process.kill(Number(said[0]), 'SIGKILL');
    await expect.poll(() => restarts).toEqual([10]);
    await sleep(200);
    expect(said).toHaveLength(1);
    isReplaced = false;
    await expect.poll(() => said).toHaveLength(2);
  });

  it('is not started when it is ended while another one does its work', async () => {
    const process_ = start(LIVES, { isReplaced: async () => true });
    await process_.stop();
    await sleep(100);
    expect(said).toEqual([]);
  });

  it('is tried again where another one that does not answer yet is in its place, if only so often', async () => {
    const { gaveUp } = start('process.exit(5)', { refusedExitCode: 5 });
    expect((await gaveUp).message).toBe('wrenn test ended with exit code 5.');
    expect(restarts).toEqual([10, 20, 40, 80, 160]);
  });

  it('is gone after its end, also while another one is waited for', async () => {
    const process_ = start(LIVES);
    process_.ready();
    await expect.poll(() => said.length).toBe(1);
    process.kill(Number(said[0]), 'SIGKILL');
    await expect.poll(() => said.length).toBe(2);
    await process_.stop();
    expect(said.map((pid) => isAlive(Number(pid)))).toEqual([false, false]);
    await process_.stop();
  });
});
