/** The guest's init: what a good boot gives, and that nothing which is broken makes PID 1 end. */
import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeExt4, runCommand } from '@wrenn/host';
import { findTemplate, type InstalledTemplate, wrennDirFromEnv } from '@wrenn/images';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type RawGuest, type RawGuestOptions, startRawGuest } from './raw-guest.ts';

const LAYER_MIB = 128;

let template: InstalledTemplate;
let dir: string;
let guest: RawGuest | undefined;

const layerPath = () => join(dir, 'layer.img');

async function prepare(): Promise<void> {
  template = await findTemplate(wrennDirFromEnv(), 'minimal');
  // Short: the paths of unix sockets are.
  dir = await mkdtemp('/tmp/wr-init-');
}

async function clear(): Promise<void> {
  await guest?.stop();
  guest = undefined;
  await rm(dir, { recursive: true, force: true });
}

async function start(change: Partial<RawGuestOptions> = {}): Promise<RawGuest> {
  guest = await startRawGuest({ dir, template, layerPath: layerPath(), ...change });
  return guest;
}

const command = (program: string, ...args: string[]) => runCommand(program, args, { timeoutMs: 30_000 });

describe('a guest', () => {
  let whole: RawGuest;
  beforeAll(async () => {
    await prepare();
    await makeExt4(layerPath(), LAYER_MIB);
    whole = await start();
    await whole.untilHealthy();
  });
  afterAll(clear);

  const lines = async (script: string) => (await whole.sh(script)).stdout.trimEnd().split('\n');

  it('has no failed step to tell of', async () => {
    expect(await whole.console()).not.toContain('wrenn-init: failed');
  });

  it('lets the kernel rest while nothing runs', async () => {
    const settings = ['vm/compaction_proactiveness', 'kernel/watchdog', 'vm/stat_interval'];
    expect(await lines(`cd /proc/sys && cat ${settings.join(' ')}`)).toEqual(['0', '0', '10']);
  });

  it('is named and addressed as the command line says', async () => {
    expect(await lines('hostname; cat /etc/hostname; ip -4 -o address show dev eth0; ip route')).toEqual([
      'raw-guest',
      'raw-guest',
      expect.stringContaining('inet 10.0.2.15/24'),
      expect.stringContaining('default via 10.0.2.2 dev eth0'),
      expect.stringContaining('10.0.2.0/24'),
    ]);
    expect(await lines('cat /etc/resolv.conf')).toEqual(['nameserver 10.0.2.3', 'nameserver 10.0.2.4']);
    expect(await lines('getent hosts raw-guest; ping -c1 -W1 localhost >/dev/null; echo $?')).toEqual([
      expect.stringContaining('127.0.1.1'),
      '0',
    ]);
    expect(await lines('cat /etc/machine-id')).toEqual([expect.stringMatching(/^[0-9a-f]{32}$/)]);
  });

  it('has the file systems that programs expect', async () => {
    const mounts = await lines("awk '{print $2, $3}' /proc/mounts");
    for (const mount of ['/proc proc', '/sys sysfs', '/dev devtmpfs', '/dev/pts devpts', '/dev/shm tmpfs']) {
      expect(mounts).toContain(mount);
    }
    expect(mounts).toEqual(expect.arrayContaining(['/run tmpfs', '/sys/fs/cgroup cgroup2', '/ overlay']));
    expect(await lines('stat -c "%a %n" /tmp /dev/shm /run/lock; echo x > /dev/fd/1')).toEqual([
      '1777 /tmp',
      '1777 /dev/shm',
      '1777 /run/lock',
      'x',
    ]);
  });

  it('keeps attributes on files in /tmp, and lets programs open many files', async () => {
    const script =
      'import os; os.setxattr("/tmp/x", "user.e2b.a", b"1"); print(os.getxattr("/tmp/x", "user.e2b.a"))';
    expect(await lines(`touch /tmp/x; python3 -c '${script}'; ulimit -n`)).toEqual(["b'1'", '65536']);
  });

  it('cannot write its guest drive', async () => {
    expect((await whole.sh('echo x > /run/wrenn/supervisor.sh')).stderr).toContain('Read-only file system');
  });

  it('leaves no zombies', async () => {
    await whole.sh('for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.2 &); done');
    await sleep(1_000);
    await expect.poll(() => lines('ps -e -o stat= | grep -c ^Z')).toEqual(['0']);
  });

  it('starts envd again when it is killed', async () => {
    await expect(whole.sh('kill -9 $(pgrep -x envd)')).rejects.toThrow();
    await whole.untilSaid('envd ended with status 137');
    await whole.untilHealthy();
    expect(await lines('echo back')).toEqual(['back']);
  });

  it('outlives a time in which no process can be made', async () => {
    const script = `
import os, signal, subprocess, time
envd = int(subprocess.check_output(["pgrep", "-x", "envd"]))
limit = "/proc/sys/kernel/threads-max"
usual = open(limit).read()
def set_limit(value):
    with open(limit, "w") as file: file.write(value)
if os.fork() > 0: os._exit(0)
os.setsid()
set_limit("20")
os.kill(envd, signal.SIGKILL)
time.sleep(8)
set_limit(usual)
`;
    await whole.sh(`python3 -c '${script}'`).catch(() => {});
    await whole.untilSaid('the supervisor stumbled and goes on');
    await whole.untilHealthy();
    expect(await lines('echo back')).toEqual(['back']);
    expect(await whole.console()).not.toContain('panic');
  });

  it('shuts down when PID 1 is told to, with all that was written on the disk', async () => {
    await whole.sh('echo kept > /root/kept; kill -TERM 1').catch(() => {});
    expect(await whole.exited).toBe(0);
    const console = await whole.console();
    expect(console).toContain('wrenn-init: shutting down');
    expect(console).not.toContain('panic');
    expect((await command('debugfs', '-R', 'cat /upper/root/kept', layerPath())).stdout).toBe('kept\n');
    // Marked as cleanly unmounted; and nothing in it for fsck to mend.
    expect((await command('dumpe2fs', '-h', layerPath())).stdout).toMatch(/^Filesystem state:\s+clean$/m);
    await command('e2fsck', '-f', '-n', layerPath());
  });
});

describe('a broken guest', () => {
  beforeEach(prepare);
  afterEach(clear);

  /** A layer with files where the guest expects them, or does not. */
  async function layerOf(make: (upper: string) => Promise<void>, sizeMib = LAYER_MIB): Promise<void> {
    const upper = join(dir, 'tree/upper');
    await mkdir(upper, { recursive: true });
    await make(upper);
    await writeFile(layerPath(), '');
    await truncate(layerPath(), sizeMib * 1024 * 1024);
    await command(
      'mkfs.ext4',
      '-q',
      '-F',
      '-m',
      '0',
      '-O',
      '^has_journal',
      '-d',
      join(dir, 'tree'),
      layerPath(),
    );
  }

  it('comes up where none of its own files can be written', async () => {
    await layerOf(async (upper) => {
      for (const path of ['etc/resolv.conf', 'etc/hostname', 'etc/machine-id']) {
        await mkdir(join(upper, path), { recursive: true });
      }
      await symlink('/no/such/place', join(upper, 'etc/hosts'));
      await command('mknod', join(upper, 'tmp'), 'c', '0', '0');
    });
    const broken = await start();
    await broken.untilHealthy();
    const console = await broken.console();
    for (const path of ['/etc/resolv.conf', '/etc/hostname', '/etc/machine-id']) {
      expect(console).toMatch(new RegExp(`wrenn-init: failed: write ${path}: .*directory`, 'i'));
    }
    expect((await broken.sh('tail -1 /etc/hosts; stat -c %a /tmp')).stdout).toBe(
      '::1 localhost ip6-localhost ip6-loopback\n1777\n',
    );
  });

  it('comes up with a layer that is full', async () => {
    await layerOf(async (upper) => {
      await mkdir(join(upper, 'root'), { recursive: true });
      await writeFile(join(upper, 'root/large'), Buffer.alloc(14_000_000, 1));
    }, 16);
    const broken = await start();
    await broken.untilHealthy();
    expect((await broken.sh('dd if=/dev/zero of=/root/more bs=1M count=8')).stderr).toContain(
      'No space left',
    );
    expect((await broken.sh('hostname')).stdout).toBe('raw-guest\n');
  });

  it('keeps changes in memory where there is no layer', async () => {
    await writeFile(layerPath(), Buffer.alloc(1024 * 1024));
    const broken = await start();
    await broken.untilHealthy();
    const console = await broken.console();
    expect(console).toContain('wrenn-init: failed: mount the layer: ');
    expect(console).toContain('the private layer is missing: changes go to memory');
    expect((await broken.sh('echo x > /root/x && cat /root/x')).stdout).toBe('x\n');
  });

  it('powers off with its reason where there is no base', async () => {
    const rootfsPath = join(dir, 'rootfs');
    await writeFile(rootfsPath, Buffer.alloc(1024 * 1024));
    await makeExt4(layerPath(), LAYER_MIB);
    const broken = await start({ rootfsPath });
    expect(await broken.exited).toBe(0);
    const console = await broken.console();
    expect(console).toMatch(/wrenn-init: failed: mount the base: .+/);
    expect(console).toContain('wrenn-init: powering off: there is no base to run');
    expect(console).not.toContain('panic');
  });

  it('lives on where the base has nothing that envd needs', async () => {
    const rootfsPath = join(dir, 'rootfs');
    await mkdir(join(dir, 'empty'));
    await command('mkfs.erofs', '--quiet', rootfsPath, join(dir, 'empty'));
    await makeExt4(layerPath(), LAYER_MIB);
    const broken = await start({ rootfsPath });
    const ended = 'envd ended with status 127';
    const ends = async () => (await broken.console()).split(ended).length - 1;
    await expect.poll(ends, { timeout: 60_000 }).toBeGreaterThanOrEqual(2);
    const console = await broken.console();
    expect(console).toContain('wrenn-init: failed: write /etc/resolv.conf: ');
    expect(console).not.toContain('panic');
  });
});
