import { WrennError } from '@wrenn/protocol';
import { describe, expect, it } from 'vitest';
import type { ExitReason, Microvm } from './driver.ts';
import { withWatchdog } from './watchdog.ts';

const HUNG = new WrennError('deadline_exceeded', 'QEMU did not answer.');

/** Answers as the list has it, then well. */
function scripted(...answers: (WrennError | 'running')[]) {
  let asked = 0;
  let killed = 0;
  let end: (reason: ExitReason) => void = () => {};
  const microvm: Microvm = {
    handle: { driver: 'qemu', pid: 1, startTime: '1', wrappers: [], runDir: '/r' },
    exited: new Promise((resolve) => {
      end = resolve;
    }),
    async status() {
      const answer = answers[asked++] ?? 'running';
      if (answer instanceof WrennError) throw answer;
      return answer;
    },
    pause: async () => {},
    resume: async () => {},
    snapshot: async () => {},
    consoleTail: async () => [],
    diagnose: async () => '',
    async kill() {
      killed += 1;
      end({ message: 'QEMU was killed by SIGKILL.', log: ['last'] });
    },
    detach: () => {},
  };
  return { microvm, asked: () => asked, killed: () => killed };
}

const FAST = { intervalMs: 2, misses: 3 };

describe('the watchdog', () => {
  it('kills what does not answer three times in a row, and says why', async () => {
    const { microvm, killed, asked } = scripted('running', HUNG, HUNG, HUNG);
    const warnings: string[] = [];
    const watched = withWatchdog(microvm, FAST, (message) => warnings.push(message));
    expect(await watched.exited).toEqual({
      message: 'The VMM was killed by its watchdog. QEMU did not answer.',
      log: ['last'],
    });
    expect(killed()).toBe(1);
    expect(asked()).toBe(4);
    expect(warnings).toHaveLength(3);
  });

  it('forgives what answers again', async () => {
    const { microvm, killed, asked } = scripted(HUNG, HUNG, 'running', HUNG, HUNG);
    const watched = withWatchdog(microvm, FAST, () => {});
    await expect.poll(asked).toBeGreaterThan(10);
    expect(killed()).toBe(0);
    watched.detach();
  });

  it('asks no more once let go, and has nothing to do with an end that others made', async () => {
    const { microvm, asked } = scripted();
    const watched = withWatchdog(microvm, FAST, () => {});
    await watched.kill();
    expect((await watched.exited).message).toBe('QEMU was killed by SIGKILL.');
    const before = asked();
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(asked()).toBe(before);
  });
});
