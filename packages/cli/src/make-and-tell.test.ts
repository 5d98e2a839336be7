import { WrennError } from '@wrenn/protocol';
import { expect, it, vi } from 'vitest';
import { type Making, makeAndTell } from './make-and-tell.ts';

const INTERRUPTED = 130;
const TERMINATED = 143;

function recorded(parts: Partial<Making<string>> = {}): { making: Making<string>; log: string[] } {
  const log: string[] = [];
  const logged = (what: string, work: () => Promise<void> = async () => {}) => {
    log.push(what);
    return work();
  };
  const { make = async () => 'a', tell, takeAway } = parts;
  return {
    log,
    making: {
      make,
      tell: (made) => logged(`tell ${made}`, () => tell?.(made) ?? Promise.resolve()),
      takeAway: (made) => logged(`take away ${made}`, () => takeAway?.(made) ?? Promise.resolve()),
      nameOf: (made) => ({ name: made, command: `wrenn sandbox kill ${made}` }),
      say: (message) => log.push(message),
    },
  };
}

it('tells of what it has made', async () => {
  const { making, log } = recorded();
  expect(await makeAndTell(making)).toBe(0);
  expect(log).toEqual(['tell a']);
});

it.each([
  ['SIGINT', INTERRUPTED],
  ['SIGTERM', TERMINATED],
] as const)('takes it away again after %s, once it knows what that is', async (signal, code) => {
  let answer = (_made: string) => {};
  const { making, log } = recorded({
    make: () =>
      new Promise((resolve) => {
        answer = resolve;
      }),
  });
  const before = process.listenerCount(signal);
  const done = makeAndTell(making);
  expect(process.listenerCount(signal)).toBe(before + 1);
  for (const listener of process.listeners(signal).slice(before)) listener(signal);
  await new Promise((resolve) => setTimeout(resolve, 10));
  expect(log).toEqual([expect.stringMatching(/taken away .*once more leaves it/)]);
  answer('a');
  expect(await done).toBe(code);
  expect(log.slice(1)).toEqual(['take away a']);
  expect(process.listenerCount(signal)).toBe(before);
});

it('ends at once when it is told so again while the agent does not answer', () => {
  const exit = vi.spyOn(process, 'exit').mockImplementation((code) => {
    throw new Error(`exit ${code}`);
  });
  const clock = vi.spyOn(performance, 'now').mockReturnValue(1000);
  const others = process.listeners('SIGINT');
  const { making } = recorded({ make: () => new Promise(() => {}) });
  void makeAndTell(making);
  const [onInterrupt = () => {}] = process.listeners('SIGINT').filter((each) => !others.includes(each));
  try {
    onInterrupt('SIGINT');
    expect(exit).not.toHaveBeenCalled();
    clock.mockReturnValue(2000);
    expect(() => onInterrupt('SIGINT')).toThrow(`exit ${INTERRUPTED}`);
  } finally {
    vi.restoreAllMocks();
    process.off('SIGINT', onInterrupt);
  }
});

it('takes it away again where nobody can be told of it', async () => {
  const failure = new Error('EPIPE');
  const { making, log } = recorded({ tell: () => Promise.reject(failure) });
  await expect(makeAndTell(making)).rejects.toBe(failure);
  expect(log).toEqual(['tell a', 'take away a']);
});

it('names what could not be taken away, and how that is done', async () => {
  const { making } = recorded({
    tell: () => Promise.reject(new Error('EPIPE')),
    takeAway: async () => {
      throw new WrennError('agent_not_running', 'The agent cannot be reached.');
    },
  });
  await expect(makeAndTell(making)).rejects.toMatchObject({
    code: 'agent_not_running',
    message: 'a was made, and could not be taken away again: The agent cannot be reached.',
    hint: 'wrenn sandbox kill a',
  });
});

it('has nothing to take away where nothing was made', async () => {
  const failure = new WrennError('too_many_sandboxes', 'Enough.');
  const { making, log } = recorded({ make: () => Promise.reject(failure) });
  await expect(makeAndTell(making)).rejects.toBe(failure);
  expect(log).toEqual([]);
});
