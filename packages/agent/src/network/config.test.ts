import { formatIpv4, rangesOverlap } from '@wrenn/host';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { describeSlot, planNetwork, slotAddresses, slotIndex, slotName } from './config.ts';
import { checkRange } from './host-side.ts';
import { deniedRanges, hostTable, slotTables } from './policy.ts';

const BASE = { owner: '/var/lib/wrenn', range: '10.117.0.0/16', prefix: 'wr', holdOffMs: 0 };
const plan = planNetwork(BASE);

describe('the plan', () => {
  it('gives each slot a pair of addresses and one name', () => {
    expect(describeSlot(plan, 0)).toMatchObject({ netns: 'wr-0', hostLink: 'wr-0', address: '10.117.0.1' });
    expect(describeSlot(plan, 32_767)).toMatchObject({ netns: 'wr-32767', address: '10.117.255.255' });
    expect(() => slotName(plan, 32_768)).toThrow();
    expect(() => slotName(plan, -1)).toThrow();
  });

  it('never gives one address twice, nor one outside of the range', () => {
    const small = planNetwork({ ...BASE, range: '10.9.8.0/26' });
    const all = Array.from({ length: small.slotCount }, (_, index) => slotAddresses(small, index));
    const addresses = all.flatMap(({ host, guest }) => [formatIpv4(host), formatIpv4(guest)]);
    expect(new Set(addresses).size).toBe(64);
    expect(addresses.every((address) => address.startsWith('10.9.8.'))).toBe(true);
  });

  it('knows its own names and no others', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 32_767 }),
        (index) => slotIndex(plan, slotName(plan, index)) === index,
      ),
    );
    const others = [
      'wr-',
      'wr-01',
      'wr-1a',
      'wr--1',
      'wrx-1',
      'xwr-1',
      'wr-32768',
      'wr-999999',
      'wr0',
      'eth0',
    ];
    expect(others.map((name) => slotIndex(plan, name))).toEqual(others.map(() => undefined));
  });

  it('marks the routes of different prefixes differently', () => {
    const prefix = fc.stringMatching(/^[a-z][a-z0-9]{0,4}$/);
    fc.assert(
      fc.property(prefix, prefix, (a, b) => {
        const [one, two] = [a, b].map((value) => planNetwork({ ...BASE, prefix: value }).routeMetric);
        expect(one === two).toBe(a === b);
      }),
    );
  });

  it.each([
    ['network.range', { range: '10.117.0.0' }],
    ['network.range', { range: '10.117.1.0/16' }],
    ['network.range', { range: '169.254.0.0/17' }],
    ['network.range', { range: '127.0.0.0/16' }],
    ['network.range', { range: '10.0.0.1/32' }],
    ['network.prefix', { prefix: 'toolong' }],
    ['network.prefix', { prefix: 'a-b' }],
    ['network.prefix', { prefix: 'a*' }],
    ['network.nameservers', { nameservers: ['1.1.1'] }],
  ])('refuses a wrong %s', (field, change) => {
    expect(() => planNetwork({ ...BASE, ...change })).toThrow(
      expect.objectContaining({ code: 'invalid_config', field }),
    );
  });
});

describe('the rules', () => {
  it('deny the range itself, also one that is public', () => {
    const ranges = deniedRanges(planNetwork({ ...BASE, range: '203.0.112.0/20' }));
    expect(ranges.map(({ address }) => formatIpv4(address))).toContain('203.0.112.0');
    const overlapping = ranges.flatMap((a, i) => ranges.slice(i + 1).filter((b) => rangesOverlap(a, b)));
    expect(overlapping).toEqual([]);
  });

  it('judge on the host only what comes from or goes to a slot', () => {
    const table = hostTable(plan, { opened: ['eth0'], closed: ['eth0', 'eth1'] }, 'x');
    expect(table.chains.map(({ policy }) => policy)).toEqual(['accept', 'accept', 'accept']);
    // The first rule of the chain that drops lets all others pass.
    expect(table.chains[0]?.rules[0]?.statements).toEqual([
      { match: { op: '!=', left: { meta: { key: 'iifname' } }, right: 'wr-*' } },
      { accept: null },
    ]);
  });

  it('drop by default in the namespace', () => {
    const chains = slotTables(plan, slotAddresses(plan, 0)).flatMap((table) => table.chains);
    const filters = chains.filter(({ type }) => type === 'filter');
    expect(filters).toHaveLength(5);
    expect(filters.every(({ policy }) => policy === 'drop')).toBe(true);
  });
});

describe('the range', () => {
  const route = { link: 'eth0', type: 'unicast', protocol: 'kernel', metric: 0 };

  it('may have a default route and its own routes around it', () => {
    const own = { range: plan.range, link: undefined, type: 'unreachable', protocol: '87', metric: 1179 };
    const pair = { ...route, range: { address: plan.range.address, prefixLength: 31 }, link: 'wr-0' };
    expect(() => checkRange(plan, [{ ...route, range: undefined }, own, pair])).not.toThrow();
    expect(() => checkRange(plan, [{ ...own, metric: 1180 }])).toThrow('another Wrenn agent');
    expect(() => checkRange(plan, [{ ...pair, link: 'tun0' }])).toThrow('(on tun0)');
  });
});
