/** The confinement with programs of the distribution in the VMM's place. Root is needed, and no VM. */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isAlive, type ProcessIdentity, runCommand, waitUntilGone } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { build } from 'esbuild';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type ConfinedCommand, launchConfined } from './confinement.ts';
import { deviceNumbers } from './devices.ts';
import { killAll } from './processes.ts';
import type { ConfinedProcess } from './wrapped-process.ts';

const UID = 1_900_088_000;
const never = new AbortController().signal;

let dir: string;
let output: number;
let spawned: ProcessIdentity[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrconf-'));
  mkdirSync(join(dir, 'run'));
  chownSync(join(dir, 'run'), UID, UID);
  writeFileSync(join(dir, 'readable'), 'text');
  output = openSync(join(dir, 'output'), 'a');
  spawned = [];
});
afterEach(async () => {
  closeSync(output);
  await killAll(spawned);
  rmSync(dir, { recursive: true });
  expect(readdirSync('/dev').filter((name) => name.startsWith(`.wrenn-${UID}`))).toEqual([]);
});

function command(program: string, ...args: string[]): ConfinedCommand {
  return {
    program,
    args,
    uid: UID,
    gid: UID,
    netns: undefined,
    readOnlyPaths: [join(dir, 'readable')],
    writablePaths: [join(dir, 'run')],
    devices: [],
    stdout: output,
    stderr: output,
  };
}

async function launch(what: ConfinedCommand, signal = never): Promise<ConfinedProcess> {
  return launchConfined(what, {
    signal,
    onSpawned: async (process, wrappers) => void spawned.push(process, ...wrappers),
  });
}

/**
 * Launches a script of the shell, which begins when that is through: a launch is of something that stays, and on a busy
 * machine what ends at once is gone before it is looked at.
 */
async function launchScript(
  script: string,
  changes: Partial<ConfinedCommand> = {},
): Promise<ConfinedProcess> {
  const gate = join(dir, 'run', 'wait');
  writeFileSync(gate, '');
  const gated = `while [ -e ${gate} ]; do /usr/bin/sleep 0.05; done; ${script}`;
  const launched = await launch({ ...command('/usr/bin/dash', '-c', gated), ...changes });
  rmSync(gate);
  return launched;
}

/** Runs a script of the shell to its end and returns what it printed. */
async function say(script: string, changes: Partial<ConfinedCommand> = {}): Promise<string> {
  const { exited } = await launchScript(script, changes);
  await exited;
  return readFileSync(join(dir, 'output'), 'utf8');
}

const gone = async () => (await Promise.all(spawned.map(isAlive))).every((alive) => !alive);

describe('a confined process', () => {
  it('finds nothing but what it was given', async () => {
    const said = await say('echo /*; echo /dev/* /etc/* /usr/local/*; ls -A "$0"/..'.replace('"$0"', dir));
    expect(said.split('\n')[0]).toBe(`/dev /etc /lib /lib64 /tmp /usr`);
    expect(said.split('\n')[1]).toBe('/dev/null /dev/urandom /etc/ld.so.cache /usr/local/*');
    expect(said).toMatch(/wrconf-/);
    expect(said.split('\n').filter((line) => line !== '')).toHaveLength(3);
  });

  it('can write where it may, and nowhere else', async () => {
    const run = join(dir, 'run');
    await say(`echo a > ${run}/a; echo b > ${dir}/readable; echo c > /c; echo d > ${dir}/d; echo e > /usr/e`);
    expect(readdirSync(run)).toEqual(['a']);
    expect(readFileSync(join(dir, 'readable'), 'utf8')).toBe('text');
    expect(readdirSync(dir).sort()).toEqual(['output', 'readable', 'run']);
  });

  it('has a bare environment, one process in sight, no network, and limits', async () => {
    process.env.WRENN_TEST_SECRET = 'secret';
    const said = await say('echo pid=$$; /usr/bin/env; ulimit -a; /usr/bin/ip -br link || true', {
      maxFileBytes: 1024 * 1024,
    });
    delete process.env.WRENN_TEST_SECRET;
    expect(said).toMatch(/^pid=1$/m);
    expect(said).not.toMatch(/secret/);
    expect(said).toMatch(/^coredump\(blocks\)\s+0$/m);
    expect(said).toMatch(/^file\(blocks\)\s+2048$/m);
    expect(said).toMatch(/^nofiles\s+1024$/m);
    expect(said).toMatch(/^process\s+256$/m);
    expect(said).not.toMatch(/eth0|veth/);
  });

  it('cannot make a file larger than it may', async () => {
    const { exited } = await launchScript('exec /usr/bin/head -c 3000000 /dev/urandom', {
      maxFileBytes: 1024 * 1024,
    });
    expect((await exited).code).not.toBe(0);
    expect(readFileSync(join(dir, 'output')).length).toBe(1024 * 1024);
  });

  it('is given a device that is for root alone, without leaving a node behind', async () => {
    expect(
      await say('exec 3<>/dev/net/tun && echo opened; echo /dev/net/*', { devices: ['/dev/net/tun'] }),
    ).toBe('opened\n/dev/net/tun\n');
    expect(readdirSync(join(dir, 'run'))).toEqual([]);
  });

  it('is given the same node as others where they are kept, which nobody else can come to', async () => {
    const devicesDir = join(dir, 'devices');
    const open = { devices: ['/dev/net/tun'], devicesDir };
    const script = 'exec 3<>/dev/net/tun && echo opened; echo /dev/net/*';
    expect(await say(script, open)).toBe('opened\n/dev/net/tun\n');
    const node = join(devicesDir, 'dev-net-tun');
    const made = lstatSync(node);
    expect([made.uid, made.mode & 0o777, lstatSync(devicesDir).mode & 0o777]).toEqual([0, 0o666, 0o700]);
    expect(await say('/usr/bin/chmod 0600 /dev/net/tun || echo refused', open)).toMatch(/refused\n$/);
    expect(lstatSync(node)).toMatchObject({ ino: made.ino, mode: made.mode, uid: 0 });
    // The directory is closed again where somebody has opened it.
    chmodSync(devicesDir, 0o755);
    expect(await say(script, open)).toMatch(/opened\n\/dev\/net\/tun\n$/);
    expect(lstatSync(devicesDir).mode & 0o777).toBe(0o700);
    // What is there and is not the device is made anew.
    rmSync(node);
    writeFileSync(node, 'a file');
    expect(await say(script, open)).toMatch(/opened\n\/dev\/net\/tun\n$/);
    expect(readdirSync(devicesDir)).toEqual(['dev-net-tun']);
    expect(readdirSync(join(dir, 'run'))).toEqual([]);
  });

  it('is given one of its own where none can be kept', async () => {
    const devicesDir = join(dir, 'devices');
    mkdirSync(devicesDir);
    await runCommand('mount', ['-t', 'tmpfs', '-o', 'nodev', 'tmpfs', devicesDir], { timeoutMs: 5_000 });
    try {
      const said = await say('exec 3<>/dev/net/tun && echo opened', {
        devices: ['/dev/net/tun'],
        devicesDir,
      });
      expect(said).toBe('opened\n');
      expect([...readdirSync(devicesDir), ...readdirSync(join(dir, 'run'))]).toEqual([]);
    } finally {
      await runCommand('umount', [devicesDir], { timeoutMs: 5_000 });
    }
  });

  it('is given it also where its directory forbids devices', async () => {
    const run = join(dir, 'run');
    await runCommand('mount', ['-t', 'tmpfs', '-o', 'nodev', 'tmpfs', run], { timeoutMs: 5_000 });
    try {
      expect(await say('exec 3<>/dev/net/tun && echo opened', { devices: ['/dev/net/tun'] })).toBe(
        'opened\n',
      );
      expect(readdirSync(run)).toEqual([]);
    } finally {
      await runCommand('umount', [run], { timeoutMs: 5_000 });
    }
  });

  it('tells how it ended', async () => {
    expect(await (await launchScript('exit 7')).exited).toEqual({ code: 7, signal: null });
    const sleeper = await launch(command('/usr/bin/sleep', '100'));
    process.kill(sleeper.pid, 'SIGKILL');
    expect(await sleeper.exited).toEqual({ code: 137, signal: null });
    const orphan = await launch(command('/usr/bin/sleep', '100'));
    await killAll(orphan.wrappers);
    expect(await isAlive(orphan)).toBe(true);
    await killAll([orphan]);
    expect(await orphan.exited).toEqual({ code: null, signal: null });
  });

  it('outlives a process that started it and was killed', async () => {
    const bundle = join(dir, 'starter.cjs');
    const source = `
      import { openSync } from 'node:fs';
      import { launchConfined } from ${JSON.stringify(fileURLToPath(new URL('./confinement.ts', import.meta.url)))};
      const output = openSync(${JSON.stringify(join(dir, 'output'))}, 'a');
      launchConfined(
        { ...${JSON.stringify(command('/usr/bin/sleep', '100'))}, netns: undefined, stdout: output, stderr: output },
        { signal: new AbortController().signal, onSpawned: async () => {} },
      ).then(({ pid, startTime, wrappers }) => {
        console.log(JSON.stringify([{ pid, startTime }, ...wrappers]));
        setInterval(() => {}, 1000);
      });`;
    await build({
      stdin: { contents: source, resolveDir: process.cwd(), loader: 'ts' },
      outfile: bundle,
      bundle: true,
      platform: 'node',
      format: 'cjs',
      logLevel: 'silent',
    });
    const starter = spawn(process.execPath, [bundle], {
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true,
    });
    const line = await new Promise<string>((resolve) =>
      starter.stdout.once('data', (data) => resolve(String(data))),
    );
    spawned = JSON.parse(line);
    // The whole group, as a terminal or a service manager would.
    process.kill(-(starter.pid ?? 0), 'SIGKILL');
    await new Promise((resolve) => starter.once('close', resolve));
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(await Promise.all(spawned.map(isAlive))).toEqual([true, true]);
    const [sleeper, wrapper] = spawned;
    if (sleeper !== undefined) await killAll([sleeper]);
    // The wrapper ends by itself.
    if (wrapper !== undefined)
      await waitUntilGone(wrapper, { pollMs: 10, signal: AbortSignal.timeout(10_000) });
  });
});

describe('a launch that fails', () => {
  it.each([
    ['a program that is not there', () => command('/usr/bin/no-such-vmm')],
    [
      'a path that is not there',
      () => ({ ...command('/usr/bin/sleep', '9'), readOnlyPaths: [join(dir, 'nothing')] }),
    ],
  ])('for %s ends, and says why', async (_, what) => {
    // Whether it is noticed before the launch is through is a matter of luck.
    const code = await launch(what()).then(
      async ({ exited }) => (await exited).code,
      (error: unknown) => (error instanceof WrennError ? error.code : undefined),
    );
    expect(code === 'vmm_died' || (typeof code === 'number' && code > 0)).toBe(true);
    expect(readFileSync(join(dir, 'output'), 'utf8')).toMatch(/no-such-vmm|nothing/);
    expect(await gone()).toBe(true);
  });

  it('for a namespace that is not there says why', async () => {
    await expect(launch({ ...command('/usr/bin/sleep', '9'), netns: 'wr-no-such' })).rejects.toMatchObject({
      code: 'vmm_died',
    });
    expect(readFileSync(join(dir, 'output'), 'utf8')).toMatch(/wr-no-such/);
  });

  it.each([
    ['netns', { netns: '../../proc/1/ns/net' }],
    ['netns', { netns: '--help' }],
    ['uid', { uid: 0 }],
    ['gid', { gid: -1 }],
    ['paths', { writablePaths: ['relative'] }],
    ['paths', { readOnlyPaths: ['/a\0b'] }],
  ])('for a %s that cannot be is refused', async (field, changes) => {
    await expect(launch({ ...command('/usr/bin/sleep', '9'), ...changes })).rejects.toMatchObject({
      code: 'invalid_argument',
      field,
    });
  });

  it('for being called off, at whatever moment, leaves nothing', async () => {
    for (let afterMs = 0; afterMs < 40; afterMs += 2) {
      const started = launch(command('/usr/bin/sleep', '9'), AbortSignal.timeout(afterMs));
      const outcome = await started.catch((error: unknown) => error);
      if (outcome instanceof Error) expect(outcome).toMatchObject({ code: 'cancelled' });
      else await killAll([outcome as ConfinedProcess, ...(outcome as ConfinedProcess).wrappers]);
      await expect.poll(gone).toBe(true);
    }
    const { stdout } = await runCommand('ps', ['-eo', 'uid,pid,ppid,stat,args'], { timeoutMs: 5_000 });
    // What is dead and waits for the machine's own init to notice holds nothing any more.
    const alive = stdout
      .split('\n')
      .filter((line) => line.includes(String(UID)) && !line.includes('<defunct>'));
    expect(alive).toEqual([]);
  });

  it('for what its owner could not write down leaves nothing', async () => {
    const onSpawned = async (process: ProcessIdentity, wrappers: readonly ProcessIdentity[]) => {
      spawned.push(process, ...wrappers);
      throw new Error('disk full');
    };
    await expect(
      launchConfined(command('/usr/bin/sleep', '9'), { signal: never, onSpawned }),
    ).rejects.toThrow('disk full');
    expect(await gone()).toBe(true);
  });
});

it('takes device numbers apart as the C library does', () => {
  expect(deviceNumbers(0x0ac8)).toEqual([10, 200]);
  expect(deviceNumbers(0x12345678)).toEqual([0x456, 0x12378]);
});
