import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createFirecrackerApi } from './api.ts';
import { type FaultKind, type StrictServer, startStrictServer } from './fixtures/strict-server.ts';

const TIMEOUTS = { requestMs: 10_000, actionMs: 10_000, snapshotMs: 10_000 };
const IMPATIENT = { requestMs: 300, actionMs: 300, snapshotMs: 300 };
const never = new AbortController().signal;

let dir: string;
let server: StrictServer | undefined;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrenn-fc-api-'));
});
afterEach(async () => {
  await server?.close();
  server = undefined;
  rmSync(dir, { recursive: true, force: true });
});

async function start(at?: string, fault?: FaultKind, version = '1.16.1', timeouts = TIMEOUTS) {
  const socketPath = join(dir, 'api.sock');
  server = await startStrictServer(socketPath, {
    id: 'box',
    version,
    openFiles: false,
    faults: at === undefined || fault === undefined ? [] : [{ at, fault }],
  });
  return createFirecrackerApi(socketPath, timeouts);
}

describe('the API client', () => {
  it('configures, starts, pauses and resumes a machine', async () => {
    const api = await start();
    expect(await api.version(never)).toMatchObject({ text: '1.16.1' });
    await api.putLogger({ level: 'Info', show_level: true }, never);
    await api.putMetrics({ metrics_path: '/x' }, never);
    await api.putSerial({ rate_limiter: { size: 10, refill_time: 10 } }, never);
    await api.putMachineConfig({ vcpu_count: 1, mem_size_mib: 128 }, never);
    await api.putBootSource({ kernel_image_path: '/k', initrd_path: '/i', boot_args: 'a' }, never);
    await api.putDrive(
      { drive_id: 'base', path_on_host: '/b', is_root_device: false, is_read_only: true },
      never,
    );
    await api.putNetworkInterface({ iface_id: 'eth0', host_dev_name: 'tap0' }, never);
    await api.putEntropy({}, never);
    expect(await api.describeInstance(never)).toMatchObject({ id: 'box', state: 'Not started' });
    await api.putAction('InstanceStart', never);
    await api.patchVm('Paused', never);
    expect(await api.describeInstance(never)).toMatchObject({ state: 'Paused' });
    await api.patchVm('Resumed', never);
    await api.putAction('SendCtrlAltDel', never);
    await api.putAction('FlushMetrics', never);
    expect(await api.describeInstance(never)).toMatchObject({ state: 'Running' });
    expect(server?.requests.map(({ name }) => name)).toEqual([
      'GET /version',
      'PUT /logger',
      'PUT /metrics',
      'PUT /serial',
      'PUT /machine-config',
      'PUT /boot-source',
      'PUT /drives/base',
      'PUT /network-interfaces/eth0',
      'PUT /entropy',
      'GET /',
      'PUT /actions',
      'PATCH /vm',
      'GET /',
      'PATCH /vm',
      'PUT /actions',
      'PUT /actions',
      'GET /',
    ]);
  });

  it('tells calls out of order as the faults that they are', async () => {
    const api = await start();
    await expect(api.patchVm('Paused', never)).rejects.toMatchObject({
      code: 'vmm_api_error',
      message: expect.stringContaining('not supported before starting the microVM'),
    });
    await expect(api.putAction('InstanceStart', never)).rejects.toMatchObject({
      message: expect.stringContaining('without kernel configuration'),
    });
    await api.putBootSource({ kernel_image_path: '/k' }, never);
    await api.putAction('InstanceStart', never);
    await expect(api.putEntropy({}, never)).rejects.toMatchObject({
      message: expect.stringContaining('not supported after starting the microVM'),
    });
  });

  it.each<[string, FaultKind, string, RegExp]>([
    ['a fault', { kind: 'fault', message: 'No.' }, 'vmm_api_error', /refused PUT \/entropy: No\.$/],
    [
      'another status',
      { kind: 'answer', status: 503, text: 'busy' },
      'vmm_api_error',
      /PUT \/entropy with 503 and "busy"/,
    ],
    [
      'success with a body',
      { kind: 'answer', status: 200, text: '{}' },
      'vmm_api_error',
      /with 200 and "\{\}"/,
    ],
    ['silence', { kind: 'silence' }, 'deadline_exceeded', /did not answer PUT \/entropy within 300 ms/],
    ['slowness', { kind: 'delay', ms: 5_000 }, 'deadline_exceeded', /within 300 ms/],
    ['no HTTP', { kind: 'not-http' }, 'vmm_api_error', /not HTTP/],
    ['a huge body', { kind: 'huge', sizeBytes: 5_000_000 }, 'vmm_api_error', /more than 65536 bytes/],
    ['half an answer', { kind: 'cut' }, 'vmm_api_error', /connection to Firecracker failed/],
    ['a reset', { kind: 'reset' }, 'vmm_api_error', /connection to Firecracker failed during PUT \/entropy/],
  ])('turns %s into a clear error', async (_name, fault, code, message) => {
    const slow = fault.kind === 'silence' || fault.kind === 'delay';
    const api = await start('PUT /entropy', fault, '1.16.1', slow ? IMPATIENT : TIMEOUTS);
    await expect(api.putEntropy({}, never)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
    // The next request is not touched by it.
    const patient = createFirecrackerApi(join(dir, 'api.sock'), TIMEOUTS);
    await expect(patient.version(never)).resolves.toMatchObject({ minor: 16 });
  });

  it.each<[string, string]>([
    ['GET /', '{"state":"Running"}'],
    ['GET /', '{"app_name":"F","id":"x","state":"Sleeping","vmm_version":"1"}'],
    ['GET /', '[]'],
    ['GET /', ''],
    ['GET /version', '{"firecracker_version":"many"}'],
    ['GET /version', '{"firecracker_version":7}'],
  ])('refuses to believe %s: %s', async (at, text) => {
    const api = await start(at, { kind: 'answer', status: 200, text });
    const asked = at === 'GET /' ? api.describeInstance(never) : api.version(never);
    await expect(asked).rejects.toMatchObject({ code: 'vmm_api_error' });
  });

  it('is cancelled by its caller, before and while it asks', async () => {
    const api = await start('GET /', { kind: 'silence' });
    await expect(api.describeInstance(AbortSignal.abort())).rejects.toMatchObject({ code: 'cancelled' });
    const controller = new AbortController();
    const asked = api.describeInstance(controller.signal);
    setTimeout(() => controller.abort(), 20);
    await expect(asked).rejects.toMatchObject({ code: 'cancelled' });
  });

  it('says so when nobody listens', async () => {
    const api = createFirecrackerApi(join(dir, 'nobody.sock'), TIMEOUTS);
    await expect(api.version(never)).rejects.toMatchObject({ code: 'vmm_api_error' });
  });

  it('meets an older version that knows less', async () => {
    const api = await start(undefined, undefined, '1.13.2');
    await expect(api.putSerial({ serial_out_path: '/x' }, never)).rejects.toMatchObject({
      message: expect.stringContaining('Invalid request method and/or path: PUT serial'),
    });
  });
});
