import { describe, expect, it } from 'vitest';
import { hostsNaming } from './machine-files.ts';

describe('hostsNaming', () => {
  it('changes the line of this machine and no other', () => {
    const lines = ['127.0.0.1 localhost', '127.0.1.1 parent', '::1 localhost', '10.0.0.1 db parent', ''];
    expect(hostsNaming(lines.join('\n'), 'child')).toBe(lines.with(1, '127.0.1.1 child').join('\n'));
  });
  it.each([
    ['', '127.0.1.1 child\n'],
    ['127.0.0.1 localhost', '127.0.0.1 localhost\n127.0.1.1 child\n'],
    ['# 127.0.1.1 x\n', '# 127.0.1.1 x\n127.0.1.1 child\n'],
    ['127.0.1.10 x\n', '127.0.1.10 x\n127.0.1.1 child\n'],
    ['  127.0.1.1\tparent\talias\n', '127.0.1.1 child\n'],
  ])('finds it in %j, or adds it', (text, expected) => {
    expect(hostsNaming(text, 'child')).toBe(expected);
    expect(hostsNaming(expected, 'child')).toBe(expected);
  });
});
