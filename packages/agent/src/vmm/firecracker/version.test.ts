import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { assertSupported, hasSerialRateLimiter, parseVersion } from './version.ts';

describe('versions', () => {
  it.each([
    ['Firecracker v1.16.1\n\n', '1.16.1'],
    ['1.17.0-dev', '1.17.0-dev'],
    ['Firecracker v1.12.0-alpha+fuzzing\nmore', '1.12.0-alpha+fuzzing'],
    ['GNU bash, version 5.2', undefined],
    ['', undefined],
  ])('reads %j', (text, version) => {
    expect(parseVersion(text)?.text).toBe(version);
  });

  it('reads back whatever it wrote, and survives anything', () => {
    const part = fc.integer({ min: 0, max: 9999 });
    fc.assert(
      fc.property(part, part, part, (major, minor, patch) => {
        expect(parseVersion(`Firecracker v${major}.${minor}.${patch}\n`)).toMatchObject({
          major,
          minor,
          patch,
        });
      }),
    );
    fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 2000 }), (text) => void parseVersion(text)));
  }, 60_000);

  it.each(['1.12.9', '0.25.2', '2.0.0'])('refuses %s', (text) => {
    const version = parseVersion(text);
    if (version === undefined) throw new Error('not a version');
    expect(() => assertSupported(version)).toThrowError(
      expect.objectContaining({
        code: 'driver_unavailable',
        message: `Firecracker ${text} is not supported.`,
      }),
    );
  });

  it('knows since when the serial port can be limited', () => {
    const limited = ['1.13.0', '1.15.9', '1.16.0', '1.17.0-dev'].map((text) => {
      const version = parseVersion(text);
      if (version === undefined) throw new Error('not a version');
      assertSupported(version);
      return hasSerialRateLimiter(version);
    });
    expect(limited).toEqual([false, false, true, true]);
  });
});
