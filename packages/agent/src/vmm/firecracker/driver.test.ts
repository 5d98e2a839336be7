import { chmodSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { hashSparse } from '@wrenn/host';
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { MicrovmHandle, MicrovmSpec } from '../driver.ts';
import { createFirecrackerDriver } from './driver.ts';
import { bundleFake, type FakeBuilder } from './fixtures/build-fake.ts';
import type { FakeConfig } from './fixtures/fake-firecracker.ts';
import {
  createHarness,
  type Harness,
  launchUnconfined,
  NOTHING_LEFT,
  never,
  TIMEOUTS,
} from './fixtures/harness.ts';
import type { FaultKind } from './fixtures/strict-server.ts';

// Each test starts a process, which takes its time on a loaded machine.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

let fakes: FakeBuilder;
let box: Harness;

beforeAll(async () => {
  fakes = await bundleFake();
});
beforeEach(() => {
  box = createHarness(fakes);
});
afterEach(() => box.dispose());

describe('launch', () => {
  it('sends exactly these requests: drives in their order, the start behind all', async () => {
    const microvm = await box.launch();
    const sent = box.recorded().map(({ name, body }) => [name, body]);
    const drives = sent.filter(([name]) => String(name).startsWith('PUT /drives/'));
    const others = sent.filter((request) => !drives.includes(request));
    expect(others.at(-1)).toEqual(['PUT /actions', { action_type: 'InstanceStart' }]);
    expect(sent.at(-1)).toBe(others.at(-1));
    expect(others.toSorted(([a], [b]) => String(a).localeCompare(String(b)))).toEqual([
      ['GET /version', undefined],
      ['PUT /actions', { action_type: 'InstanceStart' }],
      [
        'PUT /boot-source',
        {
          kernel_image_path: '/kernel',
          initrd_path: '/initrd',
          boot_args:
            'console=ttyS0 reboot=k panic=1 quiet 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce wrenn.hostname=box',
        },
      ],
      ['PUT /entropy', {}],
      ['PUT /machine-config', { vcpu_count: 2, mem_size_mib: 256, smt: false, track_dirty_pages: false }],
      [
        'PUT /network-interfaces/eth0',
        { iface_id: 'eth0', host_dev_name: 'tap0', guest_mac: '02:00:00:00:00:01' },
      ],
      ['PUT /serial', { rate_limiter: { size: 65536, refill_time: 1000, one_time_burst: 262144 } }],
    ]);
    expect(drives).toEqual(
      ['base', 'guest', 'layer'].map((id) => [
        `PUT /drives/${id}`,
        {
          drive_id: id,
          path_on_host: `/drive-${id}`,
          is_root_device: false,
          is_read_only: id !== 'layer',
          cache_type: 'Unsafe',
          io_engine: 'Sync',
        },
      ]),
    );
    expect(box.spawned).toEqual([microvm.handle]);
    expect(JSON.parse(JSON.stringify(microvm.handle))).toEqual(microvm.handle);
    await microvm.kill();
  });

  it('leaves out what an older version does not know', async () => {
    const microvm = await box.launch({ version: '1.13.2' });
    expect(box.recorded().map(({ name }) => name)).not.toContain('PUT /serial');
    expect(await microvm.status(never)).toBe('running');
    await microvm.kill();
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
    await expect(box.launch({ faults: [{ at, fault }] })).rejects.toMatchObject({
      code: 'vmm_api_error',
      message: `Firecracker refused ${at}: Not today.`,
    });
    expect(await box.leftovers()).toEqual(NOTHING_LEFT);
  });

  it.each(steps)('whose process dies at %s says so and leaves nothing', async (at) => {
    await expect(box.launch({ faults: [{ at, fault: { kind: 'sigkill' } }] })).rejects.toMatchObject({
      code: 'vmm_died',
      message: expect.stringMatching(/^Firecracker was killed by SIGKILL\. Its last words: /),
    });
    expect(await box.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('whose process ends before its socket opens tells its last words', async () => {
    await expect(
      box.launch({ exitAtStart: { code: 148, says: 'SeccompFilter(oh no)' } }),
    ).rejects.toMatchObject({
      code: 'vmm_died',
      message: expect.stringMatching(
        /seccomp filter.*Running Firecracker v1\.16\.1.*Error: SeccompFilter\(oh no\)/,
      ),
    });
    expect(await box.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('waits for a late socket, but not for ever', async () => {
    const microvm = await box.launch({ socketDelayMs: 300 });
    expect(await microvm.status(never)).toBe('running');
    await microvm.kill();
    rmSync(join(box.runDir, 'requests.jsonl'));
    const impatient = box.driver({ neverListens: true }, { ...TIMEOUTS, socketMs: 300 });
    await expect(impatient.launch(box.spec(), box.options())).rejects.toMatchObject({
      code: 'deadline_exceeded',
    });
  });

  it('that hangs in a request ends at its deadline', async () => {
    const faults = [{ at: 'PUT /actions', fault: { kind: 'silence' } as const }];
    const impatient = box.driver(
      { faults },
      { ...TIMEOUTS, api: { requestMs: 10_000, actionMs: 300, snapshotMs: 300 } },
    );
    await expect(impatient.launch(box.spec(), box.options())).rejects.toMatchObject({
      code: 'deadline_exceeded',
      message: expect.stringContaining('PUT /actions'),
    });
    expect(await box.leftovers()).toEqual(NOTHING_LEFT);
  });

  it.each<[string, FakeConfig]>([
    ['while it waits for the socket', { neverListens: true }],
    ['while it configures', { faults: [{ at: 'PUT /entropy', fault: { kind: 'silence' } }] }],
  ])('is aborted %s', async (_name, config) => {
    const controller = new AbortController();
    const launching = box
      .driver(config, {
        socketMs: 20_000,
        api: { requestMs: 20_000, actionMs: 20_000, snapshotMs: 20_000 },
      })
      .launch(box.spec(), box.options(controller.signal));
    setTimeout(() => controller.abort(), 500);
    await expect(launching).rejects.toMatchObject({ code: 'cancelled' });
    expect(await box.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('fails when the journal cannot be written', async () => {
    const onSpawned = async (handle: MicrovmHandle): Promise<void> => {
      box.spawned.push(handle);
      throw new Error('disk full');
    };
    await expect(box.driver().launch(box.spec(), { signal: never, onSpawned })).rejects.toThrow('disk full');
    expect(await box.leftovers()).toEqual(NOTHING_LEFT);
  });

  it.each<[string, Partial<MicrovmSpec>, RegExp]>([
    ['kernel', { kernelPath: '/nowhere/vmlinux' }, /kernel file cannot be opened/],
    ['initrd', { initrdPath: '/nowhere/initrd' }, /initrd file cannot be opened/],
    ['drive', { drives: [{ id: 'base', path: '/nowhere.img', readOnly: true }] }, /PUT \/drives\/base/],
  ])('names the %s that is missing', async (_name, change, message) => {
    await expect(box.launch({}, change)).rejects.toMatchObject({
      code: 'vmm_api_error',
      message: expect.stringMatching(message),
      hint: expect.any(String),
    });
    expect(await box.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('refuses a kernel that is not an ELF, a version that is too old, a machine that cannot be', async () => {
    writeFileSync(join(box.dir, 'vmlinux'), 'MZ');
    await expect(box.launch()).rejects.toMatchObject({
      hint: expect.stringContaining('uncompressed ELF vmlinux'),
    });
    await expect(box.launch({ version: '1.9.1' })).rejects.toMatchObject({ code: 'driver_unavailable' });
    const before = box.spawned.length;
    await expect(box.launch({}, { vcpus: 33 })).rejects.toMatchObject({ code: 'invalid_argument' });
    expect(box.spawned).toHaveLength(before);
    expect(await box.leftovers()).toEqual(NOTHING_LEFT);
  });
});

describe('the program', () => {
  it('tells its version', async () => {
    expect(await box.driver({ version: '1.15.1' }).version(never)).toBe('1.15.1');
  });

  it.each<[string, () => string | undefined, RegExp]>([
    ['is nowhere', () => join(box.dir, 'absent'), /is not an executable file/],
    ['is a relative path', () => 'firecracker', /is not an executable file/],
    ['is something else', () => '/bin/true', /is not Firecracker/],
    [
      'fails',
      () => {
        writeFileSync(join(box.dir, 'broken'), '#!/nowhere\n');
        chmodSync(join(box.dir, 'broken'), 0o755);
        return join(box.dir, 'broken');
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

describe('a snapshot', () => {
  const files = (name: string) => ({
    statePath: join(box.dir, `${name}.state`),
    memoryPath: join(box.dir, `${name}.memory`),
  });

  const taken = async () => {
    const microvm = await box.launch();
    await microvm.pause(never);
    const options = { memoryMib: 256, parentMemoryPath: undefined, memory: 'whole' as const, signal: never };
    await microvm.snapshot(files('first'), options);
    expect(await microvm.status(never)).toBe('paused');
    await microvm.kill();
    rmSync(join(box.runDir, 'requests.jsonl'));
    return { ...box.spec(), snapshot: files('first'), sharedMemory: true };
  };

  it('is two files of which nothing is left with the VMM, and is loaded with the names and limits of now', async () => {
    const spec = await taken();
    expect(statSync(spec.snapshot.memoryPath).size).toBe(256 * 1024 * 1024);
    expect(readdirSync(box.runDir).filter((name) => name.startsWith('snapshot'))).toEqual([]);

    const bytes = { perSecond: 1_000_000, burst: 1_000_000 };
    const drives = spec.drives.map((drive) =>
      drive.id === 'layer' ? { ...drive, rateLimit: { bytes } } : drive,
    );
    const network = { ...spec.network, tap: 'tap7' };
    const restored = await box.driver().restore({ ...spec, drives, network }, box.options());
    expect(await restored.status(never)).toBe('paused');
    await restored.resume(never);
    await restored.kill();
    const none = { size: 0, refill_time: 0 };
    const limiterOf = (id: string) => [
      `PATCH /drives/${id}`,
      {
        drive_id: id,
        rate_limiter: {
          bandwidth: id === 'layer' ? { size: 1_000_000, refill_time: 1000 } : none,
          ops: none,
        },
      },
    ];
    expect(box.recorded().map(({ name, body }) => [name, body])).toEqual([
      ['GET /version', undefined],
      ['PUT /serial', expect.anything()],
      [
        'PUT /snapshot/load',
        {
          snapshot_path: '/restored.state',
          mem_backend: { backend_type: 'File', backend_path: '/restored.memory' },
          network_overrides: [{ iface_id: 'eth0', host_dev_name: 'tap7' }],
          track_dirty_pages: true,
          resume_vm: false,
        },
      ],
      ...['base', 'guest', 'layer'].map(limiterOf),
      ['GET /', undefined],
      ['PATCH /vm', { state: 'Resumed' }],
    ]);
  });

  it('that has a delta waits for it at its layer; without memory to put it into nothing is left', async () => {
    const spec = await taken();
    const path = join(box.dir, 'delta');
    writeFileSync(path, 'no delta');
    const delta = { path, sha256: await hashSparse(path) };
    // This one maps no memory.
    await expect(box.driver().restore({ ...spec, delta }, box.options())).rejects.toMatchObject({
      code: 'vmm_api_error',
      message: expect.stringMatching(/mapped in another way/),
    });
    expect((await box.leftovers()).alive).toEqual([]);
    const other = { path, sha256: '0'.repeat(64) };
    await expect(box.driver().restore({ ...spec, delta: other }, box.options())).rejects.toMatchObject({
      code: 'snapshot_corrupt',
    });
    const read = spec.drives.map((drive) => ({ ...drive, readOnly: true }));
    await expect(box.driver().restore({ ...spec, drives: read, delta }, box.options())).rejects.toMatchObject(
      { code: 'internal' },
    );
    expect((await box.leftovers()).alive).toEqual([]);
  });

  it('that is torn, or cannot be taken, leaves nothing', async () => {
    const spec = await taken();
    writeFileSync(spec.snapshot.statePath, 'torn');
    await expect(box.driver().restore(spec, box.options())).rejects.toMatchObject({ code: 'vmm_api_error' });
    expect((await box.leftovers()).alive).toEqual([]);

    const running = await box.launch();
    const options = { memoryMib: 256, parentMemoryPath: undefined, memory: 'whole' as const, signal: never };
    await expect(running.snapshot(files('second'), options)).rejects.toThrow(/must be paused/);
    await running.pause(never);
    await expect(running.snapshot(files('second'), { ...options, memoryMib: 128 })).rejects.toThrow(
      /268435456/,
    );
    expect(readdirSync(box.runDir).filter((name) => name.startsWith('snapshot'))).toEqual([]);
    await running.kill();
  });
});
