/**
 * The floor of a cold boot: QEMU with the same machine, kernel and drives, started by hand. No namespaces, no
 * confinement, no console reader, no journal; the network is QEMU's own with one port led to the guest.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { makeExt4 } from '@wrenn/host';
import { findTemplate } from '@wrenn/images';
import { ENVD_PORT } from '@wrenn/protocol';
import { waitUntilHealthy } from '../packages/agent/src/envd-client/health.ts';
import { qemuArguments } from '../packages/agent/src/vmm/qemu/arguments.ts';
import { hostTscKhz } from '../packages/agent/src/vmm/qemu/host-tsc.ts';
import { type BenchAgent, SIZE } from './bench-agent.ts';
import type { Releases } from './releases.ts';
import { timeMs } from './samples.ts';

const BOOT_TIMEOUT_MS = 300_000;

export async function bootRawQemu(
  agent: BenchAgent,
  releases: Releases,
  signal: AbortSignal,
): Promise<number> {
  const dir = join(agent.dir, 'raw');
  const removeDir = releases.add(dir, () => rm(dir, { recursive: true, force: true }));
  await mkdir(dir);
  await chmod(dir, 0o700);
  const layer = join(dir, 'layer.img');
  // Not timed: a fresh layer is given.
  await makeExt4(layer, SIZE.diskMib);
  const port = await freePort();
  const args = await rawArguments(agent, dir, layer, port);

  let stop = async (): Promise<void> => {};
  const ended = new AbortController();
  try {
    return await timeMs(async () => {
      const child = spawn('qemu-system-x86_64', args, {
        stdio: ['ignore', 'ignore', 'inherit'],
        shell: false,
      });
      const exited = once(child, 'exit').finally(() => ended.abort(new Error('the raw QEMU ended')));
      exited.catch(() => {});
      stop = releases.add('the raw QEMU', async () => {
        child.kill('SIGKILL');
        await exited;
      });
      await waitUntilHealthy({
        host: '127.0.0.1',
        port,
        timeoutMs: BOOT_TIMEOUT_MS,
        signal: AbortSignal.any([signal, ended.signal]),
      });
    });
  } finally {
    await stop();
    await removeDir();
  }
}

async function rawArguments(
  { imagesDir, accelerator }: BenchAgent,
  runDir: string,
  layer: string,
  port: number,
): Promise<string[]> {
  const { kernelPath, initrdPath, rootfsPath, guestImagePath } = await findTemplate(imagesDir, SIZE.template);
  const args = qemuArguments(
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
      network: undefined,
      uid: 0,
      gid: 0,
      commandLine: [
        'wrenn.hostname=raw',
        'wrenn.address=10.0.2.15/24',
        'wrenn.gateway=10.0.2.2',
        'wrenn.nameservers=10.0.2.3',
      ],
    },
    { accelerator, tscKhz: await hostTscKhz() },
  );
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
