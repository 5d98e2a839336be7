import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  addressAt,
  formatIpv4,
  formatIpv4Range,
  type Ipv4Range,
  mergeRanges,
  parseIpv4,
  parseIpv4Range,
  rangeAround,
  rangeContains,
  rangeSize,
  rangesOverlap,
} from './ipv4.ts';

const octet = fc.integer({ min: 0, max: 255 });
const addressText = fc.tuple(octet, octet, octet, octet).map((parts) => parts.join('.'));
const range = fc
  .tuple(addressText, fc.integer({ min: 0, max: 32 }))
  .map(([text, prefixLength]) => rangeAround(parseIpv4(text), prefixLength));

/** The plain definition: first and last address. */
const ends = (one: Ipv4Range) => [one.address, one.address + rangeSize(one) - 1] as const;

describe('addresses', () => {
  it('come back as they were written', () => {
    fc.assert(fc.property(addressText, (text) => formatIpv4(parseIpv4(text)) === text));
  });

  it.each(['', '1.2.3', '1.2.3.4.5', '256.1.1.1', '01.2.3.4', '1.2.3.4 ', '::1', '1.2.3.-4', '1.2.3.0x4'])(
    'are not made of %j',
    (text) => {
      expect(() => parseIpv4(text)).toThrow(expect.objectContaining({ code: 'invalid_argument' }));
    },
  );

  it('are never made of arbitrary text', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        try {
          return formatIpv4(parseIpv4(text)) === text;
        } catch {
          return true;
        }
      }),
    );
  });
});

describe('ranges', () => {
  it('come back as they were written', () => {
    fc.assert(
      fc.property(range, (one) => {
        expect(parseIpv4Range(formatIpv4Range(one))).toEqual(one);
      }),
    );
  });

  it.each(['10.0.0.0', '10.0.0.0/33', '10.0.0.0/08', '10.0.0.0/', '10.0.0.0/8/8'])(
    'are not made of %j',
    (text) => {
      expect(() => parseIpv4Range(text)).toThrow(expect.objectContaining({ code: 'invalid_argument' }));
    },
  );

  it('have no bits beyond their prefix', () => {
    expect(() => parseIpv4Range('10.117.3.0/16')).toThrow(
      expect.objectContaining({ hint: 'The range that holds it is 10.117.0.0/16.' }),
    );
  });

  it('contain and overlap as intervals do', () => {
    fc.assert(
      fc.property(range, range, (a, b) => {
        const [[a1, a2], [b1, b2]] = [ends(a), ends(b)];
        expect(rangeContains(a, b)).toBe(a1 <= b1 && b2 <= a2);
        expect(rangesOverlap(a, b)).toBe(a1 <= b2 && b1 <= a2);
      }),
    );
  });

  it('number their addresses', () => {
    const pair = parseIpv4Range('255.255.255.254/31');
    expect([0, 1].map((offset) => formatIpv4(addressAt(pair, offset)))).toEqual([
      '255.255.255.254',
      '255.255.255.255',
    ]);
    for (const offset of [-1, 2, 0.5, Number.NaN]) expect(() => addressAt(pair, offset)).toThrow();
  });

  it('merged hold the same addresses and do not overlap', () => {
    fc.assert(
      fc.property(fc.array(range, { maxLength: 8 }), (ranges) => {
        const merged = mergeRanges(ranges);
        for (const one of ranges) expect(merged.some((other) => rangeContains(other, one))).toBe(true);
        for (const one of merged) expect(ranges).toContainEqual(one);
        const pairs = merged.flatMap((a, i) => merged.slice(i + 1).map((b) => [a, b] as const));
        expect(pairs.some(([a, b]) => rangesOverlap(a, b))).toBe(false);
      }),
    );
  });
});
