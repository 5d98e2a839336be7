import { WrennError } from '@wrenn/protocol';
import { describe, expect, it } from 'vitest';
import { type TakeOver, takeOver } from './take-over.ts';

const AGENT = 'wrenn-agent.service';
const API = 'wrenn-api.service';
const FAILURE = new WrennError('agent_not_running', 'It does not.');

/** A machine with these services, and what is done to them. */
function machine(...running: string[]) {
  const up = new Set(running);
  const done: string[] = [];
  const said: string[] = [];
  const interrupt = new AbortController();
  /** Fails, or is interrupted, in these steps. */
  const run = async (failing: readonly string[] = [], how: 'fails' | 'is interrupted' = 'fails') => {
    const step = (name: string) => {
      done.push(name);
      if (!failing.includes(name)) return;
      if (how === 'fails') throw FAILURE;
      interrupt.abort(FAILURE);
    };
    const steps: TakeOver = {
      isUp: async (unit) => up.has(unit),
      control: async (action, unit) => {
        if (action === 'stop') up.delete(unit);
        step(`${action} ${unit}`);
        if (action === 'restart') up.add(unit);
      },
      prepareAgent: async () => {
        expect(up).not.toContain(AGENT);
        step('prepare the agent');
      },
      prepareApi: async () => {
        expect(up).not.toContain(API);
        step('prepare the API');
      },
      untilServing: async (unit) => {
        expect(up).toContain(unit);
        step(`wait for ${unit}`);
      },
      say: (line) => said.push(line),
      signal: interrupt.signal,
    };
    await takeOver(steps);
  };
  return { up, done, said, run };
}

const STEPS = [
  `stop ${AGENT}`,
  'prepare the agent',
  `restart ${AGENT}`,
  `wait for ${AGENT}`,
  `stop ${API}`,
  'prepare the API',
  `restart ${API}`,
  `wait for ${API}`,
];

describe('the services', () => {
  it('are started one after the other, the agent first', async () => {
    const { up, done, said, run } = machine();
    await run();
    expect(done).toEqual(STEPS);
    expect(up).toEqual(new Set([AGENT, API]));
    expect(said).toEqual([]);
  });

  // A restart that systemd refuses is all that can be done.
  const failures = STEPS.filter((step) => !step.startsWith('restart'));

  it.each(failures)('that ran go on where it fails to %s, which is told', async (step) => {
    const { up, run } = machine(AGENT, API);
    await expect(run([step])).rejects.toBe(FAILURE);
    expect(up).toEqual(new Set([AGENT, API]));
  });

  it.each(STEPS)('that ran go on where somebody interrupts it to %s', async (step) => {
    const { up, run } = machine(AGENT, API);
    await run([step], 'is interrupted').catch((error: unknown) => expect(error).toBe(FAILURE));
    expect(up).toEqual(new Set([AGENT, API]));
  });

  it('leave the API as it is while the agent is not there', async () => {
    for (const step of STEPS.slice(0, 4)) {
      const { done, run } = machine(AGENT, API);
      await expect(run([step])).rejects.toBe(FAILURE);
      expect(done.filter((each) => each.includes(API))).toEqual([]);
    }
  });

  it('that did not run before do not where it fails', async () => {
    const { up, said, run } = machine(AGENT);
    await expect(run(['prepare the API'])).rejects.toBe(FAILURE);
    expect(up).toEqual(new Set([AGENT]));
    expect(said).toEqual([]);
  });

  it('that are started again are named, as are those that cannot be', async () => {
    const { said, run } = machine(AGENT, API);
    await expect(run(['prepare the API'])).rejects.toBe(FAILURE);
    await expect(run(['prepare the agent', `restart ${AGENT}`])).rejects.toBe(FAILURE);
    expect(said).toEqual([
      `${API} ran before, and is started again`,
      expect.stringContaining(`${AGENT} ran before, and could not be started again`),
    ]);
  });
});
