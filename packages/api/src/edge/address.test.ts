import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { addressOf } from './address.ts';

const DOMAIN = 'wrenn.example:8443';
const id = fc.stringMatching(/^[a-z0-9]{20}$/);
const port = fc.integer({ min: 1, max: 65_535 });

describe('addressOf', () => {
  it('reads what SDKs make: a name for every port of every sandbox', () => {
    fc.assert(
      fc.property(id, port, fc.option(fc.stringMatching(/^[a-z0-9]{1,12}$/)), (sandboxId, number, client) => {
        const label = client === null ? `${number}-${sandboxId}` : `${number}-${sandboxId}-${client}`;
        for (const host of [
          `${label}.wrenn.example`,
          `${label}.WRENN.example:8443`,
          `${label}.wrenn.example.`,
        ]) {
          expect(addressOf({ host, headers: {} }, DOMAIN)).toEqual({ sandboxId, port: number });
        }
        const headers = { 'e2b-sandbox-id': sandboxId, 'e2b-sandbox-port': String(number) };
        expect(addressOf({ host: 'localhost:3000', headers }, DOMAIN)).toEqual({ sandboxId, port: number });
      }),
    );
  });

  it.each([
    'wrenn.example',
    'api.wrenn.example',
    '0-abc.wrenn.example',
    '65536-abc.wrenn.example',
    '80-abc.evil.example',
    '80-abc.wrenn.example.evil.example',
    '80-abc.x.wrenn.example',
    '80-abcwrenn.example',
    '80-a_b.wrenn.example',
    '80-.wrenn.example',
    '-80-abc.wrenn.example',
    '8e1-abc.wrenn.example',
    `80-abc.${'wrenn.example'.repeat(40)}`,
  ])('finds no sandbox in %s', (host) => {
    expect(addressOf({ host, headers: {} }, DOMAIN)).toBeUndefined();
  });

  it('throws at nothing, and never gives a port that is none', () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), fc.string(), (host, sandboxId, number) => {
        const headers = { 'e2b-sandbox-id': sandboxId, 'e2b-sandbox-port': number };
        const found = addressOf({ host: `${host}.wrenn.example`, headers }, DOMAIN);
        if (found === undefined) return;
        expect(found.sandboxId).toMatch(/^[a-z0-9]{1,64}$/);
        expect(found.port).toBeGreaterThanOrEqual(1);
        expect(found.port).toBeLessThanOrEqual(65_535);
      }),
    );
  });
});
