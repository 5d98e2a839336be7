/** A gateway that somebody has broken into: whatever it says, the agent hears answers to what it asked and no more. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';
import { afterAll, beforeAll, expect, it } from 'vitest';

/** Its gateway does what the name of the door says. */
const PROGRAM = `
  import { fstatSync, readdirSync, writeSync } from 'node:fs';
  import { runEgressKeeper } from './keeper.ts';
  const say = (text) => {
    for (let fd = 3; fd < 64; fd += 1) {
      try { if (fstatSync(fd).isSocket()) writeSync(fd, text); } catch {}
    }
  };
  // Where the keeper is overcome, the agent ends all of the gateway's user; here nobody does.
  const parent = process.ppid;
  const deeds = {
    well: ({ id }) => process.send({ done: id }),
    garbage: () => say('this is no JSON\\n'),
    acknowledgement: () => say('{"cmd":"NODE_HANDLE_ACK"}\\n'),
    unasked: () => process.send({ done: 4711 }),
    twice: ({ id }) => { process.send({ done: id }); process.send({ done: id }); },
    large: ({ id }) => process.send({ done: id, problem: 'x'.repeat(5000) }),
    endless: () => { const text = 'x'.repeat(65536); const more = () => { if (process.ppid !== parent) process.exit(); process.channel; say(text); setImmediate(more); }; more(); },
    loud: () => { const text = 'x'.repeat(65536); const more = () => process.stderr.write(text, more); more(); setTimeout(() => process.exit(3), 500); },
    stubborn: ({ id }) => {
      process.on('disconnect', () => setInterval(() => {}, 1000));
      process.send({ done: id, problem: String(process.pid) });
    },
  };
  if (process.argv[2] === 'egress-keeper') runEgressKeeper();
  else process.on('message', (message) => deeds[message.door](message));`;

let directory: string;
let program: string;

beforeAll(async () => {
  directory = await mkdtemp('/tmp/wrenn-keeper-');
  program = join(directory, 'keeper.mjs');
  await build({
    stdin: { contents: PROGRAM, resolveDir: import.meta.dirname },
    outfile: program,
    bundle: true,
    platform: 'node',
    target: 'node20.19',
    format: 'esm',
    logLevel: 'error',
  });
});
afterAll(() => rm(directory, { recursive: true, force: true }));

function startKeeper(): { keeper: ChildProcess; heard: unknown[]; words: () => string } {
  const keeper = spawn(process.execPath, [program, 'egress-keeper'], {
    env: { ...process.env, NODE_OPTIONS: '--max-old-space-size=64' },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  const heard: unknown[] = [];
  let words = '';
  keeper.on('message', (message) => heard.push(message));
  keeper.stderr?.on('data', (chunk: Buffer) => {
    words += chunk.toString();
  });
  return { keeper, heard, words: () => words };
}

const question = (door: string, id = 1) => ({ type: 'close', id, door });

it('passes questions and answers on', async () => {
  const { keeper, heard } = startKeeper();
  keeper.send(question('well', 1));
  await once(keeper, 'message');
  keeper.send(question('well', 2));
  await once(keeper, 'message');
  expect(heard).toEqual([{ done: 1 }, { done: 2 }]);
  keeper.disconnect();
  await once(keeper, 'exit');
});

it('takes a gateway with it that does not want to end', async () => {
  const { keeper } = startKeeper();
  keeper.send(question('stubborn'));
  const [answer] = await once(keeper, 'message');
  const pid = Number(answer.problem);
  expect(() => process.kill(pid, 0)).not.toThrow();
  keeper.disconnect();
  await once(keeper, 'exit');
  expect(() => process.kill(pid, 0)).toThrow('ESRCH');
});

it.each([
  ['garbage', []],
  ['acknowledgement', []],
  ['unasked', []],
  ['twice', [{ done: 1 }]],
  ['large', []],
  ['endless', []],
  ['loud', []],
])('ends with a gateway that is %s, and the agent has heard no more than it should', async (deed, told) => {
  const { keeper, heard, words } = startKeeper();
  keeper.send(question(deed));
  await once(keeper, 'close');
  expect(heard).toEqual(told);
  expect(words().length).toBeLessThan(16_384);
});
