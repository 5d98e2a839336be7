import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { basicUserName, resolvePath } from './context.ts';
import type { User } from './sys/users.ts';

const user: User = {
  name: 'ada',
  uid: 1000,
  gid: 1000,
  groups: [1000],
  home: '/home/ada',
  shell: '/bin/bash',
};

describe('resolvePath', () => {
  it.each([
    ['', '/home/ada'],
    ['~', '/home/ada'],
    ['~/x', '/home/ada/x'],
    ['x/y', '/home/ada/x/y'],
    ['./x/../y/', '/home/ada/y'],
    ['/', '/'],
    ['/a//b/../c/', '/a/c'],
    ['../../..', '/'],
  ])('leads %j to %s', (path, expected) => {
    expect(resolvePath(path, user, undefined)).toBe(expected);
  });
  it('leads an empty path to the default working directory, and a relative one to the home', () => {
    expect(resolvePath('', user, '/work')).toBe('/work');
    expect(resolvePath('', user, '~/project')).toBe('/home/ada/project');
    expect(resolvePath('x', user, '/work')).toBe('/home/ada/x');
  });
  it('refuses NUL bytes and other homes', () => {
    expect(() => resolvePath('a\0b', user, undefined)).toThrow(/NUL/);
    expect(() => resolvePath('~root/x', user, undefined)).toThrow(/another user/);
  });
  it('is always absolute and normal', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[^\0~][^\0]*$/), (path) => {
        const resolved = resolvePath(path, user, undefined);
        expect(resolved.startsWith('/')).toBe(true);
        expect(resolved).not.toMatch(/\/\/|\/\.\.?(\/|$)|.\/$/);
      }),
    );
  });
});

describe('basicUserName', () => {
  it.each([
    [null, undefined],
    ['', undefined],
    [`Basic ${btoa('ada:')}`, 'ada'],
    [`basic ${btoa('ada:secret:x')}`, 'ada'],
    [`Basic ${btoa('ada')}`, 'ada'],
    [`Basic ${btoa(':')}`, undefined],
    ['Bearer token', undefined],
  ])('reads %j as %j', (header, name) => {
    expect(basicUserName(header)).toBe(name);
  });
});
