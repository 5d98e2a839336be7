import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { bundleProgram, type Program } from './testing/program.ts';

const END_MS = 15_000;

let program: Program;
beforeAll(async () => {
  program = await bundleProgram('log-program');
});
afterAll(() => program.remove());

function start(stderr: number | 'pipe'): ChildProcess {
  return spawn(process.execPath, [program.file], {
    stdio: ['ignore', 'ignore', stderr],
    timeout: END_MS,
    killSignal: 'SIGKILL',
  });
}

it('does not wait for a reader who stands still', async () => {
  const child = start('pipe');
  const exit = once(child, 'exit');
  const first = new Promise<string>((resolve) => {
    child.stderr?.once('data', (chunk: Buffer) => {
      child.stderr?.pause();
      resolve(chunk.toString('utf8'));
    });
  });
  expect(await exit).toEqual([0, null]);
  const [line = ''] = (await first).split('\n');
  expect(JSON.parse(line)).toMatchObject({ level: 'info', n: 0, msg: 'text', apiKey: '[secret]' });
});

it('does not end with a reader who leaves', async () => {
  const child = start('pipe');
  child.stderr?.destroy();
  expect(await once(child, 'exit')).toEqual([0, null]);
});

it('goes on where its disk is full', async () => {
  const full = openSync('/dev/full', 'w');
  const child = start(full);
  closeSync(full);
  expect(await once(child, 'exit')).toEqual([0, null]);
});
