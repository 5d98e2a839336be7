import { describe, expect, it } from 'vitest';
import { checkEgress, slotEgress } from './egress.ts';

const policy = (allowOut: string[], denyOut: string[] = ['0.0.0.0/0'], allowInternetAccess = true) => ({
  allowInternetAccess,
  allowOut,
  denyOut,
});

describe('what a sandbox may reach', () => {
  it('is addresses, ranges and names, each for its own', () => {
    const { allowed, refused, named } = slotEgress(
      policy(['192.0.2.7', 'example.com', '198.51.100.0/24', '*.Example.org']),
      { networkTransmitBytesPerSecond: 100_000 },
    );
    expect(allowed.map(({ prefixLength }) => prefixLength)).toEqual([32, 24]);
    expect(refused).toMatchObject([{ prefixLength: 0 }]);
    expect(named).toEqual({ names: ['example.com', '*.Example.org'], transmitBytesPerSecond: 100_000 });
  });

  it('has names only where there are some, and no rate where that is 0', () => {
    expect(slotEgress(policy(['192.0.2.7']), {}).named).toBeUndefined();
    const unlimited = slotEgress(policy(['a.example']), { networkTransmitBytesPerSecond: 0 });
    expect(unlimited.named?.transmitBytesPerSecond).toBeUndefined();
  });

  it('may name hosts where everything else is denied, in either way', () => {
    expect(() => checkEgress(policy(['a.example'], [], false))).not.toThrow();
    expect(() => checkEgress(policy(['a.example'], ['10.0.0.0/8', '0.0.0.0/0']))).not.toThrow();
    expect(() => checkEgress(policy(['a.example'], ['128.0.0.0/1', '0.0.0.0/1']))).toThrow(/everything else/);
  });

  it.each([
    [policy(['a.example'], []), 'network.allow_out'],
    [policy(['*']), 'network.allow_out'],
    [policy(['localhost']), 'network.allow_out'],
    [policy(['https://a.example']), 'network.allow_out'],
    [policy(['fe80::1']), 'network.allow_out'],
    [policy(['1.2.3']), 'network.allow_out'],
    [policy(['']), 'network.allow_out'],
    [policy([], ['a.example']), 'network.deny_out'],
    [policy([], ['300.1.1.1']), 'network.deny_out'],
  ])('%j is refused with the field', (wrong, field) => {
    expect(() => checkEgress(wrong)).toThrow(expect.objectContaining({ code: 'invalid_argument', field }));
    expect(() => checkEgress(wrong)).toThrow(field);
  });
});
