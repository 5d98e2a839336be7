/**
 * The floor of a cold boot on Firecracker: the same machine, kernel and drives from one configuration file, started
 * by hand. No jail, no namespaces, no console reader, no journal; a TAP that is there already.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeExt4, runCommand } from '@wrenn/host';
import { findTemplate } from '@wrenn/images';
import { ENVD_PORT } from '@wrenn/protocol';
import { waitUntilHealthy } from '../packages/agent/src/envd-client/health.ts';
import { findBinary } from '../packages/agent/src/vmm/firecracker/binary.ts';
import { DEFAULT_MACHINE_OPTIONS, describeMachine } from '../packages/agent/src/vmm/firecracker/machine.ts';
import { type BenchAgent, SIZE } from './bench-agent.ts';
import type { Releases } from './releases.ts';
import { timeMs } from './samples.ts';

const BOOT_TIMEOUT_MS = 300_000;
const IP_TIMEOUT_MS = 30_000;
const TAP = 'wrbraw0';
const HOST_ADDRESS = '10.233.78.1';
const GUEST_ADDRESS = '10.233.78.2';

export async function bootRawFirecracker(
  agent: BenchAgent,
  releases: Releases,
  signal: AbortSignal,
): Promise<number> {
  const dir = join(agent.dir, 'raw');
  const removeDir = releases.add(dir, () => rm(dir, { recursive: true, force: true }));
  await mkdir(dir, { mode: 0o700 });
  const layer = join(dir, 'layer.img');
  const config = join(dir, 'config.json');
  // Not timed: a fresh layer and a network are given.
  await makeExt4(layer, SIZE.diskMib);
  await writeFile(config, JSON.stringify(await describe(agent, dir, layer)));
  const program = await findBinary(process.env.WRENN_FIRECRACKER);
  const ip = (...args: string[]) => runCommand('ip', args, { timeoutMs: IP_TIMEOUT_MS });
  const removeTap = releases.add(TAP, async () => void (await ip('link', 'delete', TAP)));
  await ip('tuntap', 'add', TAP, 'mode', 'tap');
  await ip('address', 'add', `${HOST_ADDRESS}/30`, 'dev', TAP);
  await ip('link', 'set', TAP, 'up');

  let stop = async (): Promise<void> => {};
  const ended = new AbortController();
  try {
    return await timeMs(async () => {
      const child = spawn(program, ['--no-api', '--config-file', config], {
        stdio: 'ignore',
        shell: false,
      });
      const exited = once(child, 'exit').finally(() => ended.abort(new Error('the raw Firecracker ended')));
      exited.catch(() => {});
      stop = releases.add('the raw Firecracker', async () => {
        child.kill('SIGKILL');
        await exited;
      });
      await waitUntilHealthy({
        host: GUEST_ADDRESS,
        port: ENVD_PORT,
        timeoutMs: BOOT_TIMEOUT_MS,
        signal: AbortSignal.any([signal, ended.signal]),
      });
    });
  } finally {
    await stop();
    await removeTap();
    await removeDir();
  }
}

async function describe({ imagesDir }: BenchAgent, runDir: string, layer: string): Promise<object> {
  const { kernelPath, initrdPath, rootfsPath, guestImagePath } = await findTemplate(imagesDir, SIZE.template);
  const machine = describeMachine(
    {
      id: 'raw',
      runDir,
      kernelPath,
      initrdPath,
      drives: [
        { id: 'base', path: rootfsPath, readOnly: true },
        { id: 'guest', path: guestImagePath, readOnly: true },
        { id: 'layer', path: layer, readOnly: false },
      ],
      vcpus: SIZE.vcpus,
      memoryMib: SIZE.memoryMib,
      network: { netns: 'none', tap: TAP, guestMac: '02:00:00:00:78:02' },
      uid: 0,
      gid: 0,
      commandLine: [
        'wrenn.hostname=raw',
        `wrenn.address=${GUEST_ADDRESS}/30`,
        `wrenn.gateway=${HOST_ADDRESS}`,
        `wrenn.nameservers=${HOST_ADDRESS}`,
      ],
    },
    DEFAULT_MACHINE_OPTIONS,
  );
  return {
    'machine-config': machine.machineConfig,
    'boot-source': machine.bootSource,
    drives: machine.drives,
    'network-interfaces': [machine.networkInterface],
    entropy: machine.entropy,
  };
}
