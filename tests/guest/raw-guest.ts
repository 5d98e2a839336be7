/** A guest without an agent: QEMU started by hand with the machine's images, its network QEMU's own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { InstalledTemplate } from '@wrenn/images';
import { ENVD_PORT } from '@wrenn/protocol';
import { waitUntilHealthy } from '../../packages/agent/src/envd-client/health.ts';
import { qemuArguments } from '../../packages/agent/src/vmm/qemu/arguments.ts';
import { hostTscKhz } from '../../packages/agent/src/vmm/qemu/host-tsc.ts';
import { type Finished, finish, stream } from '../envd/connect.ts';

export interface RawGuestOptions {
  /** An existing directory for the console and the sockets. */
  readonly dir: string;
  readonly template: InstalledTemplate;
  /** Stands in for the template's root file system. */
  readonly rootfsPath?: string;
  readonly layerPath: string;
}

export interface RawGuest {
  readonly url: string;
  console(): Promise<string>;
  /** Waits for a text on the console; returns all that was printed. */
  untilSaid(text: string, timeoutMs?: number): Promise<string>;
  untilHealthy(timeoutMs?: number): Promise<void>;
  /** Runs a script as root. */
  sh(script: string): Promise<Finished>;
  /** Resolves with QEMU's exit code; a guest that resets its machine ends QEMU with 0. */
  readonly exited: Promise<number | null>;
  stop(): Promise<void>;
}

const BOOT_TIMEOUT_MS = 60_000;
const POLL_MS = 20;

export async function startRawGuest(options: RawGuestOptions): Promise<RawGuest> {
  const port = await freePort();
  const consolePath = join(options.dir, 'console.log');
  const child: ChildProcess = spawn('qemu-system-x86_64', await rawArguments(options, consolePath, port), {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const exited = once(child, 'exit').then(([code]) => code as number | null);
  const ended = new AbortController();
  void exited.then(() => ended.abort(new Error('QEMU ended')));
  const url = `http://127.0.0.1:${port}`;
  const said = () => readFile(consolePath, 'utf8').catch(() => '');

  return {
    url,
    exited,
    console: said,
    untilSaid: async (text, timeoutMs = BOOT_TIMEOUT_MS) => {
      const deadline = Date.now() + timeoutMs;
      for (;;) {
        const over = ended.signal.aborted;
        const console = await said();
        if (console.includes(text)) return console;
        if (over || Date.now() > deadline) throw new Error(`the guest did not say “${text}”:\n${console}`);
        await sleep(POLL_MS);
      }
    },
    untilHealthy: (timeoutMs = BOOT_TIMEOUT_MS) =>
      waitUntilHealthy({ host: '127.0.0.1', port, timeoutMs, signal: ended.signal }),
    sh: async (script) => {
      const process = { cmd: '/bin/sh', args: ['-c', script] };
      const headers = { Authorization: `Basic ${Buffer.from('root:').toString('base64')}` };
      return finish(await stream(url, 'process.Process/Start', { process }, { headers }));
    },
    stop: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

async function rawArguments(options: RawGuestOptions, consolePath: string, port: number): Promise<string[]> {
  const { dir, template, rootfsPath = template.rootfsPath, layerPath } = options;
  const args = qemuArguments(
    {
      id: 'raw',
      runDir: dir,
      kernelPath: template.kernelPath,
      initrdPath: template.initrdPath,
      drives: [
        { id: 'base', path: rootfsPath, readOnly: true },
        { id: 'guest', path: template.guestImagePath, readOnly: true },
        { id: 'layer', path: layerPath, readOnly: false },
      ],
      vcpus: 1,
      memoryMib: 256,
      network: undefined,
      uid: 0,
      gid: 0,
      commandLine: [
        'wrenn.hostname=raw-guest',
        'wrenn.address=10.0.2.15/24',
        'wrenn.gateway=10.0.2.2',
        'wrenn.nameservers=10.0.2.3,10.0.2.4',
      ],
    },
    { accelerator: 'tcg', tscKhz: await hostTscKhz() },
  );
  return [
    ...args
      // Nobody is there to say `cont`, nor to read the console.
      .filter((word) => word !== '-S')
      .map((word) => (word.startsWith('socket,id=console,') ? `file,id=console,path=${consolePath}` : word)),
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
