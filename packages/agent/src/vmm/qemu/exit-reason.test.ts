import { expect, it } from 'vitest';
import { announcedEnd, describeExit } from './exit-reason.ts';

const shutdown = (reason: unknown) => announcedEnd({ name: 'SHUTDOWN', data: { guest: true, reason } });

it.each([
  [{ code: null, signal: 'SIGKILL' }, undefined, 'QEMU was killed by SIGKILL.'],
  [{ code: 137, signal: null }, undefined, 'QEMU was killed by SIGKILL.'],
  [{ code: 1, signal: null }, undefined, 'QEMU ended with exit code 1.'],
  [{ code: 0, signal: null }, undefined, 'QEMU ended.'],
  [{ code: 0, signal: null }, shutdown('guest-shutdown'), 'The guest powered itself off.'],
  [{ code: 0, signal: null }, shutdown('guest-reset'), 'The guest rebooted, or its kernel panicked.'],
  // Killed while it was shutting down: the signal is what ended it.
  [{ code: 137, signal: null }, shutdown('guest-reset'), 'QEMU was killed by SIGKILL.'],
  [{ code: null, signal: null }, shutdown('guest-shutdown'), 'The guest powered itself off.'],
  [
    { code: null, signal: null },
    undefined,
    'QEMU ended; how is not known, since its parent had gone before.',
  ],
] as const)('%j, announced as %s', (status, announced, sentence) => {
  expect(describeExit(status, announced)).toBe(sentence);
});

it('takes whatever an event says', () => {
  expect(shutdown('new\x1b[2J\n cause')).toBe('QEMU shut down: new\\x1b[2J\\x0a cause.');
  expect(shutdown(7)).toBe('QEMU shut down.');
  expect(announcedEnd({ name: 'SHUTDOWN', data: null })).toBe('QEMU shut down.');
  expect(announcedEnd({ name: 'STOP', data: undefined })).toBeUndefined();
});
