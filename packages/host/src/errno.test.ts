import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { hasErrno, isDiskFull } from './errno.ts';

function failureOf(act: () => unknown): unknown {
  try {
    act();
  } catch (error) {
    return error;
  }
  throw new Error('it did not fail');
}

it('tells system calls that failed by their codes, and nothing else', () => {
  const missing = failureOf(() => readFileSync('/nonexistent'));
  expect(hasErrno(missing, 'ENOENT')).toBe(true);
  expect(hasErrno(missing, 'EPERM', 'ENOENT')).toBe(true);
  expect(hasErrno(missing, 'EPERM')).toBe(false);
  expect(hasErrno(missing)).toBe(false);
  for (const other of [undefined, 'ENOENT', { code: 'ENOENT' }, new Error('ENOENT')]) {
    expect(hasErrno(other, 'ENOENT')).toBe(false);
  }
});

it('tells a full disk by the code, or by the words of a program', () => {
  expect(isDiskFull(failureOf(() => readFileSync('/nonexistent')))).toBe(false);
  expect(isDiskFull(Object.assign(new Error('write'), { code: 'ENOSPC' }))).toBe(true);
  expect(isDiskFull(new Error("cp: error writing 'x': No space left on device"))).toBe(true);
  expect(isDiskFull('No space left on device')).toBe(false);
});
