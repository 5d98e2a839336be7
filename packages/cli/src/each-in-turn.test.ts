import { WrennError } from '@wrenn/protocol';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { eachInTurn } from './each-in-turn.ts';

let stdout: string;
let stderr: string;

beforeEach(() => {
  stdout = '';
  stderr = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    stdout += text;
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    stderr += text;
    return true;
  });
});

afterEach(() => {
  vi.restoreAllMocks();
});

const ERRORS: Readonly<Record<string, WrennError>> = {
  gone: new WrennError('sandbox_not_found', 'There is no sandbox gone.'),
  busy: new WrennError('sandbox_wrong_state', 'It is paused.'),
  dead: new WrennError('agent_not_running', 'The agent cannot be reached.'),
};

async function act(name: string): Promise<{ id: string }> {
  const error = ERRORS[name];
  if (error !== undefined) throw error;
  return { id: name };
}

const run = (names: readonly string[], json = false) => eachInTurn(names, json, act, ({ id }) => id);

it('does all that can be done, and ends with the code of the first failure', async () => {
  expect(await run(['a', 'gone', 'b', 'busy', 'c'])).toBe(3);
  expect(stdout).toBe('a\nb\nc\n');
  expect(stderr).toBe('wrenn: There is no sandbox gone.\nwrenn: It is paused.\n');
  expect(await run(['d'])).toBe(0);
});

it('tells as JSON of what was done and of each failure', async () => {
  expect(await run(['gone', 'a'], true)).toBe(3);
  expect(JSON.parse(stdout)).toEqual([{ id: 'a' }]);
  expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'sandbox_not_found' } });
});

it('asks nothing more of an agent that is gone', async () => {
  await expect(run(['a', 'dead', 'b'], true)).rejects.toMatchObject({ code: 'agent_not_running' });
  expect(JSON.parse(stdout)).toEqual([{ id: 'a' }]);
});
