import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { matchesHost, parseHostName, parseHostPattern } from './host-name.ts';

describe('a name of hosts', () => {
  it.each([
    ['example.com', 'example.com'],
    ['EXAMPLE.Com.', 'example.com'],
    ['a_b.xn--bcher-kva.example', 'a_b.xn--bcher-kva.example'],
  ])('%s is %s', (text, name) => expect(parseHostName(text)).toBe(name));

  it.each([
    ['', 'localhost', '.', '..', 'a..b', '.example.com', 'example.com..', '-a.com', 'a-.com'],
    ['1.2.3.4', '127.1', '0x7f.0x1', '[::1]', 'a.com:80', 'a b.com', 'a.com\0', 'exa\u017fmple.com', '*.com'],
    ['a.com/..', 'user@a.com', `${'a'.repeat(64)}.com`, `${'a.'.repeat(127)}com`, 'a%2e.com', 'ä.com'],
  ])('%j and the like are none', (...texts) => {
    for (const text of texts) expect(parseHostName(text), text).toBeUndefined();
  });

  it('stays as it is once it has its form, whatever was given', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ maxLength: 300 }), fc.domain()), (text) => {
        const name = parseHostName(text);
        if (name === undefined) return;
        expect(name).toMatch(/^[a-z0-9_.-]{3,253}$/);
        expect(parseHostName(name)).toBe(name);
      }),
    );
  });
});

describe('a pattern', () => {
  const fits = (pattern: string, name: string) =>
    matchesHost([parseHostPattern('other.example'), parseHostPattern(pattern)], name);

  it('without a star is one name, with it all names below', () => {
    expect(fits('Example.COM', 'example.com')).toBe(true);
    expect(fits('example.com', 'www.example.com')).toBe(false);
    expect(fits('example.com', 'badexample.com')).toBe(false);
    expect(fits('example.com', 'example.com.evil.net')).toBe(false);
    expect(fits('*.example.com', 'www.example.com')).toBe(true);
    expect(fits('*.example.com', 'a.b.example.com')).toBe(true);
    expect(fits('*.example.com', 'example.com')).toBe(false);
    expect(fits('*.example.com', 'badexample.com')).toBe(false);
  });

  it('may have letters of all languages', () => {
    expect(parseHostPattern('*.bücher.example')).toEqual({
      name: 'xn--bcher-kva.example',
      isWildcard: true,
    });
  });

  it.each([
    '*',
    '*.*.com',
    '*.',
    'a*.com',
    'a.*.com',
    'https://a.com',
    '1.2.3.4',
    'localhost',
    '',
    '１.２.３.４',
  ])('%j is none', (text) => {
    expect(() => parseHostPattern(text)).toThrow(expect.objectContaining({ code: 'invalid_argument' }));
  });
});
