import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseRange } from './range.ts';

describe('parseRange', () => {
  it.each([
    ['bytes=0-9', { kind: 'part', start: 0, end: 10 }],
    ['bytes=90-', { kind: 'part', start: 90, end: 100 }],
    ['bytes=-10', { kind: 'part', start: 90, end: 100 }],
    ['bytes=-1000', { kind: 'part', start: 0, end: 100 }],
    ['bytes=50-5000', { kind: 'part', start: 50, end: 100 }],
    ['Bytes = 0 - 0', { kind: 'part', start: 0, end: 1 }],
    ['bytes=100-', { kind: 'unsatisfiable' }],
    ['bytes=-0', { kind: 'unsatisfiable' }],
    ['bytes=5-2', { kind: 'whole' }],
    ['bytes=0-1,4-5', { kind: 'whole' }],
    ['lines=0-1', { kind: 'whole' }],
    ['bytes=-', { kind: 'whole' }],
    ['', { kind: 'whole' }],
    [null, { kind: 'whole' }],
  ])('reads %j of 100 bytes as %j', (header, verdict) => {
    expect(parseRange(header, 100)).toEqual(verdict);
  });

  it('never leaves the file', () => {
    fc.assert(
      fc.property(fc.nat(), fc.option(fc.nat()), fc.option(fc.nat()), (size, first, last) => {
        const verdict = parseRange(`bytes=${first ?? ''}-${last ?? ''}`, size);
        if (verdict.kind !== 'part') return;
        expect(verdict.start).toBeGreaterThanOrEqual(0);
        expect(verdict.start).toBeLessThan(verdict.end);
        expect(verdict.end).toBeLessThanOrEqual(size);
      }),
    );
  });
});
