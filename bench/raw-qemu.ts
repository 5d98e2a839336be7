/**
 * The floor of a cold boot: QEMU with the same machine, kernel and drives, started by hand. No namespaces, no
 * confinement, no console reader, no journal; the network is QEMU's own with one port led to the guest.
 */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { ENVD_PORT } from '@wrenn/protocol';
import { qemuArguments } from '../packages/agent/src/vmm/qemu/arguments.ts';
import { hostTscKhz } from '../packages/agent/src/vmm/qemu/host-tsc.ts';
import type { BenchAgent } from './bench-agent.ts';
import { inRawDirectory, rawSpec, timeRawBoot } from './raw-boot.ts';
import type { Releases } from './releases.ts';

export function bootRawQemu(agent: BenchAgent, releases: Releases, signal: AbortSignal): Promise<number> {
  return inRawDirectory(agent, releases, async (dir) => {
    const port = await freePort();
    const args = await rawArguments(agent, dir, port);
    return timeRawBoot({ program: 'qemu-system-x86_64', args, host: '127.0.0.1', port }, releases, signal);
  });
}

async function rawArguments(agent: BenchAgent, dir: string, port: number): Promise<string[]> {
  const spec = {
    ...(await rawSpec(agent, dir)),
    network: undefined,
    commandLine: [
      'wrenn.hostname=raw',
      'wrenn.address=10.0.2.15/24',
      'wrenn.gateway=10.0.2.2',
      'wrenn.nameservers=10.0.2.3',
    ],
  };
  const args = qemuArguments(spec, { accelerator: agent.accelerator, tscKhz: await hostTscKhz() });
  return [
    // Nobody is there to say `cont`.
    ...args.filter((word) => word !== '-S'),
    '-netdev',
    `user,id=net0,hostfwd=tcp:127.0.0.1:${port}-:${ENVD_PORT}`,
    '-device',
    'virtio-net-device,netdev=net0',
  ];
}

/** The kernel's choice; QEMU takes it right after. */
async function freePort(): Promise<number> {
  const server = createServer();
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const address = server.address();
  server.close();
  if (address === null || typeof address === 'string') throw new Error('no port is free');
  return address.port;
}
