/** Everything that a microVM of a test needs, and a look at whether anything of it is left. */
import { chown, mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { identify, killProcess, runCommand } from '@wrenn/host';
import { findBootFiles, wrennDirFromEnv, writeCpio } from '@wrenn/images';
import { CONSOLE_INIT_STARTED } from '@wrenn/protocol';
import type { LaunchOptions, Microvm, MicrovmHandle, MicrovmSpec, VmmDriver } from '../driver.ts';

/** What the guest of a test does once it has said which drives it sees. */
export type GuestTask = 'count' | 'flood' | 'shout' | 'poweroff' | 'reboot' | 'panic';

const FIRST_UID = 1_900_080_000;
const POLL_MS = 20;
/** Several in a row: that one of them finds nothing new may be the reader's fault. */
const SETTLED_LOOKS = 6;
const SETTLE_LOOKS = 100;
const SETTLE_INTERVAL_MS = 100;

/** An init of busybox alone; `task` comes from the kernel's command line. */
const GUEST_INIT = `#!/bin/busybox sh
PATH=
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
echo '${CONSOLE_INIT_STARTED}'
for disk in vda vdb vdc; do
  [ -e /sys/block/$disk ] && echo "disk $disk $(cat /sys/block/$disk/serial) $(cat /sys/block/$disk/size) ro=$(cat /sys/block/$disk/ro)"
done
[ -e /sys/class/net/eth0 ] && echo "mac $(cat /sys/class/net/eth0/address)"
task=count
for word in $(cat /proc/cmdline); do
  case $word in task=*) task=\${word#task=};; esac
done
case $task in
  poweroff) poweroff -f ;;
  reboot) reboot -f ;;
  panic) echo c > /proc/sysrq-trigger ;;
  flood) yes 'flood of the console' ;;
  shout) printf 'a\\033[2Jb\\rc\\007d\\n'; printf '\\377\\376\\n' ;;
esac
number=0
while :; do echo "tick $number"; number=$((number + 1)); usleep 50000; done
`;

export interface Workbench {
  readonly dir: string;
  readonly uid: number;
  spec(changes?: Partial<MicrovmSpec> & { readonly task?: GuestTask }): MicrovmSpec;
  options(signal?: AbortSignal): LaunchOptions;
  /** The handles that `onSpawned` was called with. */
  readonly spawned: readonly MicrovmHandle[];
  /** Processes of the workbench's user, or with its directory on their command line. */
  processes(): Promise<number[]>;
  killProcesses(): Promise<void>;
  /** What is in the run directory. */
  files(): Promise<string[]>;
  dispose(): Promise<void>;
}

/** What a part of the drivers' contract (contract.ts) is tried with. */
export interface ContractPart {
  readonly createDriver: () => VmmDriver;
  readonly bench: () => Workbench;
  readonly nothingLeft: () => Promise<void>;
  readonly bootTimeoutMs: number;
}

export async function createWorkbench(number: number): Promise<Workbench> {
  const boot = await findBootFiles(wrennDirFromEnv());
  const dir = await mkdtemp(join(tmpdir(), 'wrvm-'));
  const uid = FIRST_UID + number;
  const netns = `wrvm${process.pid}-${number}`;
  const runDir = join(dir, 'run');
  const initrdPath = join(dir, 'initrd');
  const ip = (...args: string[]) => runCommand('ip', args, { timeoutMs: 10_000 });

  await mkdir(runDir, { mode: 0o700 });
  // The kernel unpacks archives one after the other; the later init replaces the earlier.
  const overlay = writeCpio([{ kind: 'file', path: 'init', mode: 0o755, data: Buffer.from(GUEST_INIT) }]);
  await writeFile(initrdPath, Buffer.concat([await readFile(boot.initrdPath), overlay]));
  const drives = await Promise.all(
    (['base', 'guest', 'layer'] as const).map(async (id, index) => {
      const path = join(dir, `${id}.img`);
      await writeFile(path, '');
      await truncate(path, (index + 1) * 1024 * 1024);
      if (id === 'layer') await chown(path, uid, uid);
      return { id, path, readOnly: id !== 'layer' };
    }),
  );
  await ip('netns', 'add', netns);
  await ip('-n', netns, 'tuntap', 'add', 'tap0', 'mode', 'tap', 'user', String(uid), 'group', String(uid));
  await ip('-n', netns, 'link', 'set', 'tap0', 'up');

  const killProcesses = async (): Promise<void> => {
    for (const pid of await findProcesses(dir, uid)) {
      const identity = await identify(pid);
      if (identity !== undefined) await killProcess(identity, 'SIGKILL');
    }
  };
  const spawned: MicrovmHandle[] = [];
  return {
    dir,
    uid,
    spawned,
    spec({ task = 'count', ...changes } = {}) {
      return {
        id: `bench${number}`,
        vcpus: 1,
        memoryMib: 128,
        kernelPath: boot.kernelPath,
        initrdPath,
        commandLine: [`task=${task}`],
        drives,
        network: { netns, tap: 'tap0', guestMac: '02:00:00:00:00:01' },
        runDir,
        uid,
        gid: uid,
        ...changes,
      };
    },
    options(signal = new AbortController().signal) {
      return { signal, onSpawned: async (handle) => void spawned.push(handle) };
    },
    processes: () => findProcesses(dir, uid),
    killProcesses,
    files: () => readdir(runDir),
    async dispose() {
      await killProcesses();
      await ip('netns', 'del', netns);
      await rm(dir, { recursive: true, force: true });
    },
  };
}

async function findProcesses(dir: string, uid: number): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => {
      try {
        const owner = (await stat(`/proc/${pid}`)).uid;
        const status = await readFile(`/proc/${pid}/status`, 'utf8');
        if (/^State:\s+Z/m.test(status)) return undefined;
        const fits = owner === uid || (await readFile(`/proc/${pid}/cmdline`, 'utf8')).includes(dir);
        return fits ? Number(pid) : undefined;
      } catch {
        // It ended meanwhile.
        return undefined;
      }
    }),
  );
  return found.filter((pid) => pid !== undefined);
}

/** Waits until the console has a line that fits, and returns the last such line. */
export async function waitForLine(microvm: Microvm, pattern: RegExp, timeoutMs: number): Promise<string> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const lines = await microvm.consoleTail(500);
    const line = lines.findLast((candidate) => pattern.test(candidate));
    if (line !== undefined) return line;
    if (performance.now() > deadline) {
      throw new Error(
        `No line like ${pattern} in ${timeoutMs} ms; the console ends with ${lines.slice(-5).join(' | ')}`,
      );
    }
    await sleep(POLL_MS);
  }
}

/** Of a guest that is paused: its counter, once all that it had printed has been read. */
export async function settledTick(microvm: Microvm): Promise<number> {
  let tick = await lastTick(microvm);
  for (let look = 0, same = 0; look < SETTLE_LOOKS; look++) {
    await sleep(SETTLE_INTERVAL_MS);
    const now = await lastTick(microvm);
    same = now === tick ? same + 1 : 0;
    if (same === SETTLED_LOOKS) return tick;
    tick = now;
  }
  throw new Error(`The guest does not stand still: it counts ${tick}.`);
}

/** The guest's counter, as far as it has come. */
export async function lastTick(microvm: Microvm): Promise<number> {
  const line = (await microvm.consoleTail(50)).findLast((candidate) => /^tick \d+$/.test(candidate));
  return line === undefined ? -1 : Number(line.slice('tick '.length));
}
