import { EventEmitter } from 'node:events';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { catchInterrupts, type Interrupts } from './interrupts.ts';
import { watchOutputs } from './lost-output.ts';

type Signal = 'SIGINT' | 'SIGTERM' | 'SIGHUP';

const stdout = new EventEmitter();
watchOutputs({ stdout, stderr: new EventEmitter() }, () => {});

describe('what comes while a command runs', () => {
  let interrupts: Interrupts;
  let log: string[];
  let send: (signal: Signal) => void;
  beforeEach(() => {
    log = [];
    const before = (['SIGINT', 'SIGTERM', 'SIGHUP'] as const).flatMap((name) => process.listeners(name));
    interrupts = catchInterrupts();
    send = (name) => {
      for (const each of process.listeners(name)) if (!before.includes(each)) each(name);
    };
    interrupts.onEnding = () => log.push('ending');
    vi.spyOn(process, 'exit').mockImplementation((code) => {
      log.push(`exit ${code}`);
      return undefined as never;
    });
  });
  afterEach(() => {
    interrupts.release();
    vi.restoreAllMocks();
  });

  const sendAt = (ms: number, name: Signal) => {
    vi.spyOn(performance, 'now').mockReturnValue(ms);
    send(name);
  };

  it('is one signal where `timeout` has passed it on, and an end at once where it comes later', () => {
    interrupts.onFirst = () => log.push('first');
    sendAt(1000, 'SIGTERM');
    sendAt(1010, 'SIGTERM');
    expect(interrupts.exitCode()).toBe(143);
    expect(log).toEqual(['ending']);
    sendAt(1500, 'SIGINT');
    expect(log).toEqual(['ending', 'exit 130']);
  });

  it("is the command's first where it is SIGINT, whenever the next one comes", () => {
    interrupts.onFirst = () => log.push('first');
    sendAt(1000, 'SIGINT');
    sendAt(9000, 'SIGINT');
    expect(log).toEqual(['first', 'ending']);
    expect(interrupts.exitCode()).toBe(130);
    sendAt(9010, 'SIGINT');
    expect(log).toEqual(['first', 'ending']);
    sendAt(9500, 'SIGINT');
    expect(log).toEqual(['first', 'ending', 'exit 130']);
  });

  it('is no later signal where only the reader had left before', () => {
    stdout.emit('error', Object.assign(new Error('EPIPE: write'), { code: 'EPIPE' }));
    expect(log).toEqual([]);
    sendAt(9000, 'SIGTERM');
    expect(log).toEqual(['ending']);
    expect(interrupts.exitCode()).toBe(141);
  });

  it('is waited for by who must not be left in the middle', () => {
    interrupts.onLater = (exitCode) => log.push(`later ${exitCode}`);
    sendAt(1000, 'SIGHUP');
    sendAt(2000, 'SIGHUP');
    expect(log).toEqual(['ending', 'later 129']);
  });
});
