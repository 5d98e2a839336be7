import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseIdentity } from './parse-identity.ts';

const nothing = { hostname: undefined, machineId: undefined, entropy: undefined, nameservers: undefined };
const base64 = (bytes: number) => Buffer.alloc(bytes, 7).toString('base64');

describe('parseIdentity', () => {
  it('takes each field by itself, nulls, and fields of later hosts', () => {
    for (const value of [
      {},
      { hostname: null, machineId: null, entropy: null, nameservers: null },
      { x: 1 },
    ]) {
      expect(parseIdentity(value)).toEqual(nothing);
    }
    expect(parseIdentity({ hostname: 'sb-1' })).toEqual({ ...nothing, hostname: 'sb-1' });
    expect(parseIdentity({ nameservers: [] })).toEqual({ ...nothing, nameservers: [] });
  });

  it.each([
    { hostname: 'a' },
    { hostname: 'A9-z' },
    { hostname: 'x'.repeat(63) },
    { machineId: '0123456789abcdef0123456789abcdef' },
    { nameservers: ['0.0.0.0', '255.255.255.255', '192.0.2.1'] },
  ])('takes %j', (value) => {
    expect(parseIdentity(value)).toEqual({ ...nothing, ...value });
  });

  it.each([32, 33, 34, 64, 511, 512])('takes %i bytes of entropy', (bytes) => {
    expect(parseIdentity({ entropy: base64(bytes) })).toMatchObject({ entropy: Buffer.alloc(bytes, 7) });
  });

  it.each([
    undefined,
    null,
    [],
    'x',
    7,
    ...[
      '',
      '-a',
      'a-',
      'a.b',
      'a_b',
      'a b',
      'a\n',
      '\na',
      'ü',
      'a\0',
      '$(x)',
      '../a',
      'x'.repeat(64),
      7,
      {},
      ['a'],
    ].map((hostname) => ({ hostname })),
    ...[
      '',
      '0'.repeat(32),
      'a'.repeat(31),
      'a'.repeat(33),
      'A'.repeat(32),
      'g'.repeat(32),
      `${'a'.repeat(32)}\n`,
      '01234567-89ab-cdef-0123-456789abcdef',
      7,
      ['a'.repeat(32)],
    ].map((machineId) => ({ machineId })),
    ...[
      '',
      base64(31),
      base64(513),
      base64(100_000),
      base64(32).replace('=', ''),
      ` ${base64(32)}`,
      `${base64(32)}\n`,
      base64(33).replaceAll('H', '-'),
      `${'A'.repeat(43)}*`,
      // A last character with bits that no byte has.
      `${'A'.repeat(42)}B=`,
      7,
      [1, 2, 3],
    ].map((entropy) => ({ entropy })),
    ...[
      '192.0.2.1',
      ['192.0.2'],
      ['192.0.2.256'],
      ['192.0.2.01'],
      ['192.0.2.1 '],
      ['192.0.2.1\noptions debug'],
      ['::1'],
      [''],
      [7],
      [['192.0.2.1']],
      Array.from({ length: 4 }, () => '192.0.2.1'),
      {},
    ].map((nameservers) => ({ nameservers })),
  ])('refuses %j', (value) => {
    expect(parseIdentity(value)).toEqual(expect.stringMatching(/^identity/));
  });

  it('says what is wrong without quoting it, whatever comes', () => {
    const field = fc.constantFrom('hostname', 'machineId', 'entropy', 'nameservers');
    fc.assert(
      fc.property(fc.dictionary(field, fc.jsonValue()), (value) => {
        const parsed = parseIdentity(value);
        if (typeof parsed === 'string') expect(parsed.length).toBeLessThan(100);
        else if (parsed.hostname !== undefined) expect(parsed.hostname).toMatch(/^[A-Za-z0-9-]{1,63}$/);
      }),
    );
  });
});
