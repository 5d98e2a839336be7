import { describe, expect, it } from 'vitest';
import { panicOf } from './end-reason.ts';

describe('panicOf', () => {
  it('quotes the last panic of the kernel, without its control characters', () => {
    const console = [
      '[    1.0] Kernel panic - not syncing: an earlier one',
      '[    2.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\x1b[31m',
      '[    2.1] CPU: 0 PID: 1 Comm: init',
    ];
    expect(panicOf(console)).toBe(' Its kernel said: Attempted to kill init! exitcode=0x0000000b\\x1b[31m');
  });

  it('is empty where there was none', () => {
    expect(panicOf(['reboot: machine restart'])).toBe('');
  });

  it('is short, whatever the guest prints', () => {
    expect(panicOf([`Kernel panic - not syncing: ${'x'.repeat(5000)}`]).length).toBeLessThan(150);
  });
});
