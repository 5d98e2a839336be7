import { expect, it } from 'vitest';
import { exitStatus } from './exit-status.ts';

it.each([
  [0, null, { exitCode: 0, exited: true, status: 'exit status 0', error: undefined }],
  [3, null, { exitCode: 3, exited: true, status: 'exit status 3', error: 'exit status 3' }],
  [null, 'SIGKILL', { exitCode: -1, exited: false, status: 'signal: killed', error: 'signal: killed' }],
  [
    null,
    'SIGWINCH',
    { exitCode: -1, exited: false, status: 'signal: signal 28', error: 'signal: signal 28' },
  ],
  [null, 35, { exitCode: -1, exited: false, status: 'signal: signal 35', error: 'signal: signal 35' }],
])('says how a process with code %j and signal %j ended', (code, signal, expected) => {
  expect(exitStatus(code, signal)).toEqual(expected);
});
