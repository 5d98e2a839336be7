/**
 * An envd with `--own-machine` that cannot reach this machine: it has its own mount and UTS namespace, with private
 * directories over /etc, /run and /var/lib/dbus, and an ordinary file over the kernel's drop_caches. Needs root.
 */
import { chmod, copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { finish, stream } from './connect.ts';
import { type Envd, startEnvd } from './start-envd.ts';

export interface OwnMachine {
  readonly envd: Envd;
  /** Its /etc. */
  readonly etc: string;
  /** Its /var/lib/dbus. */
  readonly dbus: string;
  /** Where programs are found first. */
  readonly bin: string;
  /** What stands for /proc/sys/vm/drop_caches. */
  readonly dropCaches: string;
  /** The output of a shell's command in it. */
  sh(script: string, headers?: Record<string, string>): Promise<string>;
  stop(): Promise<void>;
}

export interface OwnMachineOptions {
  /** A program and its arguments that becomes envd, inside of the namespaces. */
  readonly through?: readonly string[];
  /** Of envd, besides `--own-machine`. */
  readonly envdArgs?: readonly string[];
}

/** Nothing is executed unless every mount is in place. */
const ENTER = [
  'set -eu',
  'mount --bind "$1/etc" /etc',
  'mount --bind "$1/dbus" /var/lib/dbus',
  'mount --bind "$1/drop_caches" /proc/sys/vm/drop_caches',
  'mount -t tmpfs run /run',
  'shift',
  'exec "$@"',
].join('\n');

const NAMESPACES = ['unshare', '--mount', '--uts', '--propagation', 'private', '--'];

export async function startOwnMachine(options: OwnMachineOptions = {}): Promise<OwnMachine> {
  const dir = await mkdtemp(join(tmpdir(), 'wrenn-machine-'));
  const [etc, dbus, bin] = [join(dir, 'etc'), join(dir, 'dbus'), join(dir, 'bin')];
  const dropCaches = join(dir, 'drop_caches');
  try {
    for (const path of [etc, join(etc, 'ssh'), dbus, bin]) await mkdir(path);
    // What programs need to start, and envd to know its users.
    for (const name of ['passwd', 'group', 'ld.so.cache']) await copyFile(`/etc/${name}`, join(etc, name));
    await writeFile(join(etc, 'hostname'), 'parent\n');
    await writeFile(join(etc, 'hosts'), '127.0.0.1 localhost\n127.0.1.1 parent\n10.0.0.1 db\n');
    await writeFile(join(etc, 'machine-id'), `${'0123456789abcdef'.repeat(2)}\n`);
    await writeFile(join(etc, 'resolv.conf'), 'nameserver 192.0.2.53\n');
    await writeFile(dropCaches, '');
    // The real one would write out whatever else this machine is doing.
    await script(bin, 'sync', 'exit 0');
    const envd = await startEnvd({
      defaultUser: 'root',
      args: ['--own-machine', ...(options.envdArgs ?? [])],
      environment: { PATH: `${bin}:${process.env.PATH ?? ''}` },
      through: [...NAMESPACES, 'sh', '-c', ENTER, 'sh', dir, ...(options.through ?? [])],
    });
    return {
      envd,
      etc,
      dbus,
      bin,
      dropCaches,
      sh: async (command, headers = {}) => {
        const start = { process: { cmd: '/bin/sh', args: ['-c', command] }, stdin: false };
        return (await finish(await stream(envd.url, 'process.Process/Start', start, { headers }))).stdout;
      },
      stop: async () => {
        await envd.stop();
        await rm(dir, { recursive: true, force: true });
      },
    };
  } catch (error) {
    await rm(dir, { recursive: true, force: true });
    throw error;
  }
}

/** Puts a shell script there as a program. */
export async function script(directory: string, name: string, text: string): Promise<void> {
  const path = join(directory, name);
  await writeFile(path, `#!/bin/sh\n${text}\n`);
  await chmod(path, 0o755);
}
