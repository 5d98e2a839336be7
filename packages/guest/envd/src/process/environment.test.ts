import { describe, expect, it } from 'vitest';
import type { User } from '../sys/users.ts';
import { buildEnvironment, variableProblem } from './environment.ts';

const user: User = { name: 'ada', uid: 1, gid: 1, groups: [1], home: '/home/ada', shell: '/bin/sh' };
const layers = { user, ownPath: '/bin', global: new Map<string, string>(), request: {}, terminal: false };

describe('buildEnvironment', () => {
  it('has four variables by itself, and a fifth for terminals', () => {
    const own = { PATH: '/bin', HOME: '/home/ada', USER: 'ada', LOGNAME: 'ada' };
    expect(buildEnvironment(layers)).toEqual(own);
    expect(buildEnvironment({ ...layers, terminal: true })).toEqual({ ...own, TERM: 'xterm-256color' });
    expect(buildEnvironment({ ...layers, ownPath: undefined }).PATH).toContain('/usr/bin');
  });
  it('lets the request win over the global ones, and those over its own', () => {
    const global = new Map([
      ['HOME', '/global'],
      ['A', 'global'],
    ]);
    const environment = buildEnvironment({ ...layers, global, request: { A: 'request', PATH: '/mine' } });
    expect(environment).toMatchObject({ HOME: '/global', A: 'request', PATH: '/mine' });
  });
  it('refuses what exec cannot pass', () => {
    for (const request of [{ '': 'x' }, { 'A=B': 'x' }, { 'A\0': 'x' }, { A: '\0' }]) {
      expect(() => buildEnvironment({ ...layers, request })).toThrow();
    }
    expect(variableProblem('A', 'any =text')).toBeUndefined();
  });
});
