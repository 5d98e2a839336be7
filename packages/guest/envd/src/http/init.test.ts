import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseInit, parseTimestamp } from './init.ts';

describe('parseTimestamp', () => {
  it.each([
    ['1970-01-01T00:00:00Z', 0n],
    ['1970-01-01T00:00:01.5Z', 1_500_000_000n],
    ['1970-01-01T01:00:00.000000001+01:00', 1n],
    ['2030-01-01t00:00:00.123456789z', 1_893_456_000_123_456_789n],
    ['2030-01-01T00:00:00.1234567891Z', 1_893_456_000_123_456_789n],
  ])('reads %s', (text, ns) => {
    expect(parseTimestamp(text)).toBe(ns);
  });
  it.each(['', 'now', '2030-01-01', '2030-13-01T00:00:00Z', '2030-01-01T00:00:00', '12'])(
    'refuses %j',
    (text) => {
      expect(parseTimestamp(text)).toBeUndefined();
    },
  );
  it('agrees with Date for every millisecond', () => {
    fc.assert(
      fc.property(fc.date({ min: new Date(0), max: new Date('9999-12-31'), noInvalidDate: true }), (date) => {
        expect(parseTimestamp(date.toISOString())).toBe(BigInt(date.getTime()) * 1_000_000n);
      }),
    );
  });
});

describe('parseInit', () => {
  it('takes an empty body, nulls and unknown fields', () => {
    const nothing = {
      envVars: new Map(),
      replaceEnvs: false,
      accessToken: undefined,
      timestampNs: undefined,
      defaultUser: undefined,
      defaultWorkdir: undefined,
      identity: undefined,
    };
    for (const text of [
      '',
      ' \n',
      '{}',
      '{"accessToken":null,"envVars":null,"later":[1]}',
      '{"accessToken":""}',
      '{"replaceEnvs":null,"identity":null}',
    ]) {
      expect(parseInit(text)).toEqual(nothing);
    }
  });
  it('keeps names that objects have by themselves', () => {
    const init = parseInit('{"envVars":{"__proto__":"x","constructor":"y"}}');
    if (typeof init === 'string') throw new Error(init);
    expect([...init.envVars]).toEqual([
      ['__proto__', 'x'],
      ['constructor', 'y'],
    ]);
  });
  it.each([
    '{"replaceEnvs":1}',
    '{"replaceEnvs":"true"}',
    '{"identity":[]}',
    '{"identity":"x"}',
    '{"identity":{"hostname":"-"}}',
  ])('refuses %s', (text) => {
    expect(parseInit(text)).toEqual(expect.any(String));
  });
  it('never throws, whatever comes', () => {
    fc.assert(fc.property(fc.string(), (text) => void parseInit(text)));
    fc.assert(fc.property(fc.jsonValue(), (value) => void parseInit(JSON.stringify(value))));
  });
});
