import { describe, expect, it } from 'vitest';
import { acceptedEncoding, contentEncoding } from './encoding.ts';

describe('acceptedEncoding', () => {
  it.each([
    [null, 'identity'],
    ['', 'identity'],
    ['gzip', 'gzip'],
    ['GZIP;q=0.5', 'gzip'],
    ['gzip, deflate', 'identity'],
    ['gzip, deflate, br, zstd', 'identity'],
    ['*', 'identity'],
    ['gzip;q=0', 'identity'],
    ['gzip, identity;q=0.5', 'gzip'],
    ['identity, gzip;q=0.5', 'identity'],
    ['gzip, identity;q=0', 'gzip'],
    ['*;q=0, gzip', 'gzip'],
    ['identity;q=0', undefined],
    ['br, *;q=0', undefined],
  ])('of %j is %j', (header, encoding) => {
    expect(acceptedEncoding(header)).toBe(encoding);
  });
});

describe('contentEncoding', () => {
  it.each([
    [null, 'identity'],
    ['identity', 'identity'],
    [' GZip ', 'gzip'],
    ['br', undefined],
    ['gzip, gzip', undefined],
  ])('of %j is %j', (header, encoding) => {
    expect(contentEncoding(header)).toBe(encoding);
  });
});
