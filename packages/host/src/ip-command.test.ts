import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createIp } from './ip.ts';
import {
  addAddress,
  addNetns,
  addPermanentNeighbour,
  addTap,
  addUnreachableRoute,
  addVeth,
  deleteLink,
  setLink,
} from './ip-command.ts';
import { parseIpv4, parseIpv4Range } from './ipv4.ts';

describe('commands', () => {
  it('are the words that iproute2 knows', () => {
    const address = parseIpv4('10.0.0.1');
    const mark = { protocol: 87, metric: 1179 };
    const commands = [
      addVeth({ link: 'wr-0', peer: 'veth0', peerNetns: 'wr-0', mtu: 1400 }),
      addTap({ link: 'tap0', uid: 5, gid: 6 }),
      setLink('tap0', { mac: '02:00:00:00:00:01', ipv6AddressMode: 'none', up: true }),
      addAddress('wr-0', address, 31),
      addPermanentNeighbour('tap0', address, '02:00:00:00:00:01'),
      addUnreachableRoute(parseIpv4Range('10.0.0.0/8'), mark),
    ];
    expect(commands.map(({ words }) => words.join(' '))).toEqual([
      'link add wr-0 mtu 1400 type veth peer name veth0 mtu 1400 netns wr-0',
      'tuntap add dev tap0 mode tap user 5 group 6',
      'link set dev tap0 address 02:00:00:00:00:01 addrgenmode none up',
      'address add 10.0.0.1/31 dev wr-0',
      'neighbour add 10.0.0.1 lladdr 02:00:00:00:00:01 dev tap0 nud permanent',
      'route add unreachable 10.0.0.0/8 proto 87 metric 1179',
    ]);
  });

  it('are one line each, whatever is given as a name', () => {
    const word = /^[A-Za-z0-9_.:/-]+$/;
    fc.assert(
      fc.property(fc.string(), (name) => {
        for (const make of [addNetns, deleteLink, (text: string) => setLink('x', { alias: text })]) {
          try {
            expect(make(name).words.every((one) => word.test(one) || one === '')).toBe(true);
          } catch (error) {
            expect(error).toMatchObject({ code: 'invalid_argument' });
          }
        }
      }),
    );
  });

  it.each(['', '-x', 'a b', 'a\nlink delete eth0', 'sixteen-letters-', '../x', 'a;b', '0x'])(
    'refuse the link name %j',
    (name) => {
      expect(() => deleteLink(name)).toThrow(expect.objectContaining({ code: 'invalid_argument' }));
    },
  );

  it('refuse numbers that are none', () => {
    for (const uid of [0, -1, 1.5, Number.NaN, 2 ** 32]) {
      expect(() => addTap({ link: 'tap0', uid, gid: 1 })).toThrow(
        expect.objectContaining({ code: 'invalid_argument' }),
      );
    }
  });
});

describe('what ip prints', () => {
  const printing = (stdout: string) => createIp(async () => ({ stdout, stderr: '' }));

  it('becomes routes', async () => {
    const ip = printing(
      JSON.stringify([
        { dst: 'default', gateway: '192.0.2.1', dev: 'eth0', flags: [] },
        { type: 'unreachable', dst: '10.117.0.0/16', protocol: '87', metric: 1179, flags: [] },
        { type: 'local', dst: '192.0.2.2', dev: 'eth0', table: 'local', protocol: 'kernel', flags: [] },
      ]),
    );
    expect(await ip.routes()).toEqual([
      { range: undefined, link: 'eth0', type: 'unicast', protocol: 'boot', metric: 0 },
      {
        range: parseIpv4Range('10.117.0.0/16'),
        link: undefined,
        type: 'unreachable',
        protocol: '87',
        metric: 1179,
      },
      { range: parseIpv4Range('192.0.2.2/32'), link: 'eth0', type: 'local', protocol: 'kernel', metric: 0 },
    ]);
  });

  it.each(['not json', '{}', '[{"dst":"somewhere"}]', '[{"dst":7}]'])('is refused as %j', async (text) => {
    await expect(printing(text).routes()).rejects.toMatchObject({ name: 'WrennError' });
  });

  it('may be nothing at all', async () => {
    expect(await printing('').links()).toEqual([]);
    expect(await printing('[{},{"ifname":"lo","mtu":65536}]').links()).toEqual([
      { name: 'lo', mtu: 65_536, alias: undefined },
    ]);
  });
});
