import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { expect, it } from 'vitest';
import { isListening, portsIn } from './listeners.ts';

const hasIpv6 = existsSync('/proc/net/if_inet6') && readFileSync('/proc/net/if_inet6', 'utf8') !== '';

/** Another program may have come to the same port, elsewhere or afterwards; it does not do so time and again. */
const ANOTHER_PORT = { retry: 3 };

it.each([
  ['127.0.0.1', true],
  ['0.0.0.0', true],
  ['127.0.0.2', false],
  ...(hasIpv6
    ? ([
        ['::1', true],
        ['::', true],
        ['::ffff:127.0.0.1', true],
      ] as const)
    : []),
] as const)('a program at %s: %s', ANOTHER_PORT, async (host, expected) => {
  const server = createServer().listen(0, host);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const first = await isListening(port);
  server.close();
  await once(server, 'close');
  expect([first, await isListening(port)]).toEqual([expected, false]);
});

it('with IPv6 is written in 32 digits', () => {
  const line = (address: string) => `   1: ${address}:1F40 ${'0'.repeat(32)}:0000 0A 00000000:00000000`;
  const addresses = ['0'.repeat(32), `${'0'.repeat(24)}01000000`, '0000000000000000FFFF00000100007F'];
  expect(addresses.map((address) => portsIn(line(address)))).toEqual([[8000], [8000], [8000]]);
  expect(portsIn(line(`${'0'.repeat(24)}02000000`))).toEqual([]);
});

it('listens where the state says so, and not where it is only connected', () => {
  const head =
    '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode';
  const line = (local: string, state: string) =>
    `   0: ${local} 00000000:0000 ${state} 00000000:00000000 00:00000000 00000000     0        0 4026 1 0000 100 0 0 10 0`;
  const table = [head, line('0100007F:1F40', '0A'), line('0100007F:1F41', '01'), line('010200C0:1F42', '0A')];
  expect(portsIn(table.join('\n'))).toEqual([8000]);
  expect(portsIn('')).toEqual([]);
});
