import { EventEmitter } from 'node:events';
import { afterEach, describe, expect, it } from 'vitest';
import { catchInterrupts, type Interrupts } from './interrupts.ts';
import { watchOutputs } from './lost-output.ts';

const failure = (code: string): Error => Object.assign(new Error(`${code}: write`), { code });

describe('an output that is lost', () => {
  const outputs = { stdout: new EventEmitter(), stderr: new EventEmitter() };
  const told: unknown[] = [];
  watchOutputs(outputs, (error) => told.push(error.code));
  let interrupts: Interrupts | undefined;
  afterEach(() => {
    interrupts?.release();
    told.length = 0;
  });

  it('ends the program, unless it is stderr', () => {
    outputs.stderr.emit('error', failure('ENOSPC'));
    outputs.stdout.emit('error', failure('EIO'));
    expect(told).toEqual(['EIO']);
  });

  it.each([
    ['ENOSPC', 'disk_full', undefined],
    ['EIO', 'internal', undefined],
    ['EPIPE', 'cancelled', 141],
  ])('ends a command in order first: %s', (code, reason, exitCode) => {
    interrupts = catchInterrupts();
    expect(interrupts.signal.aborted).toBe(false);
    outputs.stdout.emit('error', failure(code));
    expect(told).toEqual([]);
    expect(interrupts.signal.reason).toMatchObject({ code: reason });
    expect(interrupts.exitCode()).toBe(exitCode);
    interrupts.release();
    outputs.stdout.emit('error', failure(code));
    expect(told).toEqual([code]);
  });

  it('is told to all who have something to take away, until each has done so', () => {
    interrupts = catchInterrupts();
    const inner = catchInterrupts();
    inner.release();
    outputs.stdout.emit('error', failure('EPIPE'));
    expect(inner.signal.aborted).toBe(false);
    expect(interrupts.exitCode()).toBe(141);
    expect(told).toEqual([]);
  });
});
