import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { identify, isAlive } from '@wrenn/host';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Microvm, MicrovmHandle, MicrovmSpec } from '../driver.ts';
import type { LaunchConfined } from './confined.ts';
import { createFirecrackerDriver, type FirecrackerTimeouts } from './driver.ts';
import { bundleFake, type FakeBuilder } from './fixtures/build-fake.ts';
import type { FakeConfig } from './fixtures/fake-firecracker.ts';
import type { FaultKind } from './fixtures/strict-server.ts';
import { FILE_LIMIT_BYTES } from './output.ts';
import { killAll } from './process.ts';

const never = new AbortController().signal;
const TIMEOUTS: FirecrackerTimeouts = { socketMs: 5_000, api: { requestMs: 1_000, actionMs: 1_000 } };

let fakes: FakeBuilder;
let dir: string;
let runDir: string;
let program: string;
let spawned: MicrovmHandle[];
let warnings: string[];

beforeAll(async () => {
  fakes = await bundleFake();
});
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-fc-'));
  runDir = join(dir, 'run');
  program = join(dir, 'firecracker');
  mkdirSync(runDir);
  writeFileSync(join(dir, 'vmlinux'), '\x7fELF and more');
  for (const name of ['initrd', 'base.img', 'guest.img', 'layer.img']) writeFileSync(join(dir, name), name);
  spawned = [];
  warnings = [];
});
afterEach(async () => {
  await killAll(spawned);
  rmSync(dir, { recursive: true, force: true });
});

/** No confinement: what is tested here is the driver, with a real process, as any user. */
const launchUnconfined: LaunchConfined = async (command, { onSpawned }) => {
  const child = spawn(command.program, command.args, {
    stdio: ['ignore', command.stdout, command.stderr],
    detached: true,
  });
  const exited = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
  const name = await identify(child.pid ?? 0);
  if (name === undefined) throw new Error('not started');
  await onSpawned(name, []);
  return { ...name, wrappers: [], exited };
};

function driver(config: FakeConfig = {}, timeouts = TIMEOUTS) {
  fakes.write(program, config);
  return createFirecrackerDriver({
    binary: program,
    launchConfined: launchUnconfined,
    timeouts,
    onWarning: (message) => warnings.push(message),
  });
}

function spec(change: Partial<MicrovmSpec> = {}): MicrovmSpec {
  return {
    id: 'abcdefghij0123456789',
    vcpus: 2,
    memoryMib: 256,
    kernelPath: join(dir, 'vmlinux'),
    initrdPath: join(dir, 'initrd'),
    commandLine: ['wrenn.hostname=box'],
    drives: [
      { id: 'base', path: join(dir, 'base.img'), readOnly: true },
      { id: 'guest', path: join(dir, 'guest.img'), readOnly: true },
      { id: 'layer', path: join(dir, 'layer.img'), readOnly: false },
    ],
    network: { netns: 'none', tap: 'tap0', guestMac: '02:00:00:00:00:01' },
    runDir,
    uid: process.getuid?.() ?? 0,
    gid: process.getgid?.() ?? 0,
    ...change,
  };
}

async function launch(config: FakeConfig = {}, change: Partial<MicrovmSpec> = {}): Promise<Microvm> {
  return driver(config).launch(spec(change), options());
}

function options(signal: AbortSignal = never) {
  return {
    signal,
    onSpawned: async (handle: MicrovmHandle) => {
      spawned.push(handle);
    },
  };
}

function recorded(): { name: string; body: unknown }[] {
  const lines = readFileSync(join(runDir, 'requests.jsonl'), 'utf8').trim().split('\n');
  return lines.map((line) => JSON.parse(line));
}

/** After a failed launch: no process, nothing in the run directory but the fixture's own record. */
async function expectNothingLeft(): Promise<void> {
  for (const handle of spawned) expect(await isAlive(handle)).toBe(false);
  expect(readdirSync(runDir).filter((name) => name !== 'requests.jsonl')).toEqual([]);
  expect(warnings).toEqual([]);
}

describe('launch', () => {
  it('sends exactly these requests, in this order', async () => {
    const microvm = await launch();
    expect(recorded().map(({ name, body }) => [name, body])).toEqual([
      ['GET /version', undefined],
      ['PUT /serial', { rate_limiter: { size: 65536, refill_time: 1000, one_time_burst: 262144 } }],
      ['PUT /machine-config', { vcpu_count: 2, mem_size_mib: 256, smt: false, track_dirty_pages: false }],
      [
        'PUT /boot-source',
        {
          kernel_image_path: join(dir, 'vmlinux'),
          initrd_path: join(dir, 'initrd'),
          boot_args:
            'console=ttyS0 reboot=k panic=1 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce wrenn.hostname=box',
        },
      ],
      ...['base', 'guest', 'layer'].map((id) => [
        `PUT /drives/${id}`,
        {
          drive_id: id,
          path_on_host: join(dir, `${id}.img`),
          is_root_device: false,
          is_read_only: id !== 'layer',
          cache_type: 'Unsafe',
          io_engine: 'Sync',
        },
      ]),
      [
        'PUT /network-interfaces/eth0',
        { iface_id: 'eth0', host_dev_name: 'tap0', guest_mac: '02:00:00:00:00:01' },
      ],
      ['PUT /entropy', {}],
      ['PUT /actions', { action_type: 'InstanceStart' }],
    ]);
    expect(spawned).toEqual([microvm.handle]);
    expect(JSON.parse(JSON.stringify(microvm.handle))).toEqual(microvm.handle);
    await microvm.kill();
  });

  it('leaves out what an older version does not know', async () => {
    const microvm = await launch({ version: '1.13.2' });
    expect(recorded().map(({ name }) => name)).not.toContain('PUT /serial');
    expect(await microvm.status(never)).toBe('running');
    await microvm.kill();
  });

  it('runs a machine: status, pause, resume, console, diagnosis, kill', async () => {
    const microvm = await launch({ console: 'Linux version 6.1\r\nwrenn-init: started\r\n' });
    expect(await microvm.status(never)).toBe('running');
    await microvm.pause(never);
    expect(await microvm.status(never)).toBe('paused');
    await microvm.resume(never);
    expect(await microvm.status(never)).toBe('running');
    await expect.poll(() => microvm.consoleTail(1)).toEqual(['wrenn-init: started']);
    const diagnosis = await microvm.diagnose(never);
    expect(diagnosis).toContain('Firecracker 1.16.1 says: Running');
    expect(diagnosis).toContain('The API server received a PUT /actions request.');
    expect(diagnosis).toContain('Linux version 6.1');

    await Promise.all([microvm.kill(), microvm.kill()]);
    await microvm.kill();
    const reason = await microvm.exited;
    expect(reason.message).toBe('Firecracker was killed by SIGKILL.');
    expect(reason.log.length).toBeLessThanOrEqual(20);
    expect(reason.log.join('\n')).toContain('The API server received');
    expect(readdirSync(runDir).sort()).toEqual(['console.log', 'requests.jsonl', 'vmm.log']);
    await expect(microvm.status(never)).rejects.toMatchObject({ code: 'vmm_api_error' });
  });

  const steps = [
    'GET /version',
    'PUT /serial',
    'PUT /machine-config',
    'PUT /boot-source',
    'PUT /drives/base',
    'PUT /drives/guest',
    'PUT /drives/layer',
    'PUT /network-interfaces/eth0',
    'PUT /entropy',
    'PUT /actions',
  ];
  it.each(steps)('that is refused at %s leaves nothing', async (at) => {
    const fault: FaultKind = { kind: 'fault', message: 'Not today' };
    await expect(launch({ faults: [{ at, fault }] })).rejects.toMatchObject({
      code: 'vmm_api_error',
      message: `Firecracker refused ${at}: Not today.`,
    });
    await expectNothingLeft();
  });

  it.each(steps)('whose process dies at %s says so and leaves nothing', async (at) => {
    await expect(launch({ faults: [{ at, fault: { kind: 'sigkill' } }] })).rejects.toMatchObject({
      code: 'vmm_died',
      message: expect.stringMatching(/^Firecracker was killed by SIGKILL\. Its last words: /),
    });
    await expectNothingLeft();
  });

  it('whose process ends before its socket opens tells its last words', async () => {
    await expect(launch({ exitAtStart: { code: 148, says: 'SeccompFilter(oh no)' } })).rejects.toMatchObject({
      code: 'vmm_died',
      message: expect.stringMatching(
        /seccomp filter.*Running Firecracker v1\.16\.1.*Error: SeccompFilter\(oh no\)/,
      ),
    });
    await expectNothingLeft();
  });

  it('waits for a late socket, but not for ever', async () => {
    const microvm = await launch({ socketDelayMs: 300 });
    expect(await microvm.status(never)).toBe('running');
    await microvm.kill();
    rmSync(join(runDir, 'requests.jsonl'));
    const impatient = driver({ neverListens: true }, { ...TIMEOUTS, socketMs: 300 });
    await expect(impatient.launch(spec(), options())).rejects.toMatchObject({ code: 'deadline_exceeded' });
  });

  it('that hangs in a request ends at its deadline', async () => {
    const faults = [{ at: 'PUT /actions', fault: { kind: 'silence' } as const }];
    await expect(launch({ faults })).rejects.toMatchObject({
      code: 'deadline_exceeded',
      message: expect.stringContaining('PUT /actions'),
    });
    await expectNothingLeft();
  });

  it.each<[string, FakeConfig]>([
    ['while it waits for the socket', { neverListens: true }],
    ['while it configures', { faults: [{ at: 'PUT /entropy', fault: { kind: 'silence' } }] }],
  ])('is aborted %s', async (_name, config) => {
    const controller = new AbortController();
    const launching = driver(config, {
      socketMs: 20_000,
      api: { requestMs: 20_000, actionMs: 20_000 },
    }).launch(spec(), options(controller.signal));
    setTimeout(() => controller.abort(), 500);
    await expect(launching).rejects.toMatchObject({ code: 'cancelled' });
    await expectNothingLeft();
  });

  it('fails when the journal cannot be written', async () => {
    const onSpawned = async (handle: MicrovmHandle): Promise<void> => {
      spawned.push(handle);
      throw new Error('disk full');
    };
    await expect(driver().launch(spec(), { signal: never, onSpawned })).rejects.toThrow('disk full');
    await expectNothingLeft();
  });

  it.each<[string, Partial<MicrovmSpec>, RegExp]>([
    ['kernel', { kernelPath: '/nowhere/vmlinux' }, /kernel file cannot be opened/],
    ['initrd', { initrdPath: '/nowhere/initrd' }, /initrd file cannot be opened/],
    ['drive', { drives: [{ id: 'base', path: '/nowhere.img', readOnly: true }] }, /PUT \/drives\/base/],
  ])('names the %s that is missing', async (_name, change, message) => {
    await expect(launch({}, change)).rejects.toMatchObject({
      code: 'vmm_api_error',
      message: expect.stringMatching(message),
      hint: expect.any(String),
    });
    await expectNothingLeft();
  });

  it('refuses a kernel that is not an ELF, a version that is too old, a machine that cannot be', async () => {
    writeFileSync(join(dir, 'vmlinux'), 'MZ');
    await expect(launch()).rejects.toMatchObject({
      hint: expect.stringContaining('uncompressed ELF vmlinux'),
    });
    await expect(launch({ version: '1.9.1' })).rejects.toMatchObject({ code: 'driver_unavailable' });
    const before = spawned.length;
    await expect(launch({}, { vcpus: 33 })).rejects.toMatchObject({ code: 'invalid_argument' });
    expect(spawned).toHaveLength(before);
    await expectNothingLeft();
  });
});

describe('a running microVM', () => {
  it('that dies is noticed within a second, with the reason', async () => {
    const microvm = await launch();
    const killedAt = Date.now();
    process.kill(microvm.handle.pid, 'SIGKILL');
    expect((await microvm.exited).message).toBe('Firecracker was killed by SIGKILL.');
    expect(Date.now() - killedAt).toBeLessThan(1_000);
  });

  it('is adopted by the next agent, with its console, and then noticed and killed all the same', async () => {
    const first = await launch({ console: 'boot\nready\n' });
    await expect.poll(() => first.consoleTail(9)).toEqual(['boot', 'ready']);
    await expect.poll(() => statSync(join(runDir, 'console.log')).size).toBe(11);
    first.detach();
    expect(await isAlive(first.handle)).toBe(true);

    const second = await driver().adopt(JSON.parse(JSON.stringify(first.handle)), never);
    expect(await second.status(never)).toBe('running');
    expect(await second.consoleTail(9)).toEqual(['boot', 'ready']);
    await second.pause(never);
    expect(await second.status(never)).toBe('paused');
    second.detach();

    const third = await driver().adopt(first.handle, never);
    const killedAt = Date.now();
    process.kill(first.handle.pid, 'SIGKILL');
    const reason = await third.exited;
    expect(Date.now() - killedAt).toBeLessThan(1_000);
    expect(reason.message).toContain('an earlier agent started it');
    expect(reason.log.join('\n')).toContain('PATCH /vm');
    await third.kill();
    expect(warnings).toEqual([]);
  });

  it('that is gone, or whose pid is somebody else by now, is not adopted', async () => {
    const microvm = await launch();
    await microvm.kill();
    await expect(driver().adopt(microvm.handle, never)).rejects.toMatchObject({ code: 'vmm_died' });
    const impostor = { ...microvm.handle, pid: process.pid };
    await expect(driver().adopt(impostor, never)).rejects.toMatchObject({ code: 'vmm_died' });
  });

  it('is adopted even if its FIFOs are spoilt', async () => {
    const first = await launch();
    first.detach();
    rmSync(join(runDir, 'console.fifo'));
    writeFileSync(join(runDir, 'console.fifo'), 'not a FIFO');
    const second = await driver().adopt(first.handle, never);
    expect(await second.consoleTail(9)).toEqual([]);
    expect(warnings).toHaveLength(1);
    await second.kill();
  });

  it('that floods its console fills neither memory nor disk, and runs on without a reader', async () => {
    const microvm = await launch({ flood: true });
    await sleep(1_500);
    expect(await microvm.consoleTail(100_000)).not.toHaveLength(0);
    expect(statSync(join(runDir, 'console.log')).size).toBeLessThanOrEqual(FILE_LIMIT_BYTES);
    microvm.detach();
    await sleep(500);
    const adopted = await driver().adopt(microvm.handle, never);
    expect(await adopted.status(never)).toBe('running');
    await adopted.kill();
    expect(existsSync(join(runDir, 'console.fifo'))).toBe(false);
  });
});

describe('the program', () => {
  it('tells its version', async () => {
    expect(await driver({ version: '1.15.1' }).version(never)).toBe('1.15.1');
  });

  it.each<[string, () => string | undefined, RegExp]>([
    ['is nowhere', () => join(dir, 'absent'), /is not an executable file/],
    ['is a relative path', () => 'firecracker', /is not an executable file/],
    ['is something else', () => '/bin/true', /is not Firecracker/],
    [
      'fails',
      () => {
        writeFileSync(join(dir, 'broken'), '#!/nowhere\n');
        chmodSync(join(dir, 'broken'), 0o755);
        return join(dir, 'broken');
      },
      /could not be run/,
    ],
  ])('that %s is a missing program', async (_name, path, message) => {
    const binary = path();
    const broken = createFirecrackerDriver({
      launchConfined: launchUnconfined,
      ...(binary !== undefined && { binary }),
    });
    await expect(broken.version(never)).rejects.toMatchObject({
      code: 'missing_program',
      message: expect.stringMatching(message),
      hint: expect.any(String),
    });
  });
});
