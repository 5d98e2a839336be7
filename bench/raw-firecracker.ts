/**
 * The floors of a cold boot on Firecracker: the same machine, kernel and drives from one configuration file, started
 * by hand. No jail, no namespaces, no console reader, no journal; a TAP that is there already.
 *
 * One listens for API calls, without which a microVM can be neither paused nor kept, though none comes; the other does
 * not. The API's thread is no work to speak of, but moves the guest's memory, and where that does not begin at a multiple
 * of 2 MiB the nested page tables have none but small pages (docs/firecracker.md).
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '@wrenn/host';
import { ENVD_PORT } from '@wrenn/protocol';
import { findBinary } from '../packages/agent/src/vmm/firecracker/binary.ts';
import { DEFAULT_MACHINE_OPTIONS, describeMachine } from '../packages/agent/src/vmm/firecracker/machine.ts';
import type { BenchAgent } from './bench-agent.ts';
import { inRawDirectory, rawSpec, timeRawBoot } from './raw-boot.ts';
import type { Releases } from './releases.ts';

const IP_TIMEOUT_MS = 30_000;
const TAP = 'wrbraw0';
const HOST_ADDRESS = '10.233.78.1';
const GUEST_ADDRESS = '10.233.78.2';

export function bootRawFirecracker(
  agent: BenchAgent,
  releases: Releases,
  signal: AbortSignal,
  api: 'with its API' | 'without an API',
): Promise<number> {
  return inRawDirectory(agent, releases, async (dir) => {
    const config = join(dir, 'config.json');
    await writeFile(config, JSON.stringify(await configuration(agent, dir)));
    const program = await findBinary(process.env.WRENN_FIRECRACKER);
    const listening = api === 'with its API' ? ['--api-sock', join(dir, 'api.sock')] : ['--no-api'];
    const args = [...listening, '--config-file', config];
    const removeTap = releases.add(TAP, () => ip('link', 'delete', TAP));
    await ip('tuntap', 'add', TAP, 'mode', 'tap');
    try {
      await ip('address', 'add', `${HOST_ADDRESS}/30`, 'dev', TAP);
      await ip('link', 'set', TAP, 'up');
      return await timeRawBoot({ program, args, host: GUEST_ADDRESS, port: ENVD_PORT }, releases, signal);
    } finally {
      await removeTap();
    }
  });
}

async function ip(...args: string[]): Promise<void> {
  await runCommand('ip', args, { timeoutMs: IP_TIMEOUT_MS });
}

async function configuration(agent: BenchAgent, dir: string): Promise<object> {
  const spec = {
    ...(await rawSpec(agent, dir)),
    network: { netns: 'none', tap: TAP, guestMac: '02:00:00:00:78:02' },
    commandLine: [
      'wrenn.hostname=raw',
      `wrenn.address=${GUEST_ADDRESS}/30`,
      `wrenn.gateway=${HOST_ADDRESS}`,
      `wrenn.nameservers=${HOST_ADDRESS}`,
    ],
  };
  const machine = describeMachine(spec, DEFAULT_MACHINE_OPTIONS);
  return {
    'machine-config': machine.machineConfig,
    'boot-source': machine.bootSource,
    drives: machine.drives,
    'network-interfaces': [machine.networkInterface],
    entropy: machine.entropy,
  };
}
