import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  parseBytesPerSecond,
  parseCopyPlace,
  parseCount,
  parseDurationMs,
  parseMemoryMib,
  parsePairs,
} from './values.ts';

describe('parseMemoryMib', () => {
  it.each([
    ['512', 512],
    ['512M', 512],
    ['512MiB', 512],
    ['2G', 2048],
    ['2g', 2048],
    ['0', 0],
  ])('%s is %d MiB', (text, mib) => {
    expect(parseMemoryMib(text, '--memory')).toBe(mib);
  });

  it.each(['', 'M', '-1', '1.5G', '2T', '1 G', '0x10', '9'.repeat(20)])(
    'refuses %j with the option',
    (text) => {
      expect(() => parseMemoryMib(text, '--memory')).toThrowError(
        expect.objectContaining({ code: 'invalid_argument', field: '--memory' }),
      );
    },
  );
});

describe('parseBytesPerSecond', () => {
  it.each([
    ['0', 0],
    ['64K', 65_536],
    ['10M', 10_485_760],
    ['10MiB/s', 10_485_760],
    ['1g', 1_073_741_824],
  ])('%s is %d bytes in a second', (text, bytes) => {
    expect(parseBytesPerSecond(text, '--disk-rate')).toBe(bytes);
  });

  // Without a unit it could be bytes as well as MiB.
  it.each(['', '10', 'M', '-1M', '1.5M', '10Mbit', '1T', '9'.repeat(20)])('refuses %j', (text) => {
    expect(() => parseBytesPerSecond(text, '--disk-rate')).toThrowError(
      expect.objectContaining({ code: 'invalid_argument', field: '--disk-rate' }),
    );
  });
});

describe('parseDurationMs', () => {
  it.each([
    ['90', 90_000],
    ['90s', 90_000],
    ['5m', 300_000],
    ['2h', 7_200_000],
    ['1d', 86_400_000],
    ['250ms', 250],
  ])('%s is %d ms', (text, ms) => {
    expect(parseDurationMs(text, '--timeout')).toBe(ms);
  });

  it.each(['', 's', '-5s', '5 s', '5y', '1e3'])('refuses %j', (text) => {
    expect(() => parseDurationMs(text, '--timeout')).toThrowError(
      expect.objectContaining({ code: 'invalid_argument' }),
    );
  });
});

describe('parseCount and parsePairs', () => {
  it('take what is meant and refuse the rest', () => {
    expect(parseCount('4', '--cpus')).toBe(4);
    expect(() => parseCount('four', '--cpus')).toThrowError(/whole number/);
    expect(parsePairs(['A=1', 'B=x=y', 'A=2', 'C='], '--env')).toEqual({ A: '2', B: 'x=y', C: '' });
    expect(() => parsePairs(['=1'], '--env')).toThrowError(/NAME=value/);
    expect(() => parsePairs(['A'], '--env')).toThrowError(/NAME=value/);
  });
});

describe('parseCopyPlace', () => {
  it.each([
    ['-', { kind: 'standard' }],
    ['abc123:/etc/hosts', { kind: 'sandbox', id: 'abc123', path: '/etc/hosts' }],
    ['abc123:', { kind: 'sandbox', id: 'abc123', path: '.' }],
    ['./abc:def', { kind: 'host', path: './abc:def' }],
    ['file', { kind: 'host', path: 'file' }],
  ])('%s', (text, place) => {
    expect(parseCopyPlace(text)).toEqual(place);
  });

  it('makes some place of any text', () => {
    fc.assert(
      fc.property(fc.string(), (text) => ['host', 'sandbox', 'standard'].includes(parseCopyPlace(text).kind)),
    );
  });
});
