/**
 * A client of Firecracker's HTTP API on its unix socket. One connection a request: the server allows ten,
 * keeps them open for as long as the peer likes, and a connection left idle would outlive `detach`. The many requests
 * of a start share some that their caller closes.
 */
import { Agent, request as httpRequest } from 'node:http';
import { WrennError } from '@wrenn/protocol';
import { ANSWER_LIMIT_BYTES, type Answer, expectEmpty, expectJson } from './answer.ts';
import {
  type ActionType,
  type BootSource,
  type Drive,
  type DrivePatch,
  type EntropyDevice,
  type InstanceInfo,
  instanceInfoSchema,
  type Logger,
  type MachineConfiguration,
  type Metrics,
  type NetworkInterface,
  type SerialDevice,
  type SnapshotCreation,
  type SnapshotLoad,
  type VmState,
  versionSchema,
} from './api-types.ts';
import { type FirecrackerVersion, parseVersion } from './version.ts';

export interface FirecrackerApi {
  describeInstance(signal: AbortSignal): Promise<InstanceInfo>;
  version(signal: AbortSignal): Promise<FirecrackerVersion>;
  putLogger(body: Logger, signal: AbortSignal): Promise<void>;
  putMetrics(body: Metrics, signal: AbortSignal): Promise<void>;
  putSerial(body: SerialDevice, signal: AbortSignal): Promise<void>;
  putMachineConfig(body: MachineConfiguration, signal: AbortSignal): Promise<void>;
  putBootSource(body: BootSource, signal: AbortSignal): Promise<void>;
  putDrive(body: Drive, signal: AbortSignal): Promise<void>;
  patchDrive(body: DrivePatch, signal: AbortSignal): Promise<void>;
  putNetworkInterface(body: NetworkInterface, signal: AbortSignal): Promise<void>;
  putEntropy(body: EntropyDevice, signal: AbortSignal): Promise<void>;
  putAction(action: ActionType, signal: AbortSignal): Promise<void>;
  patchVm(state: VmState, signal: AbortSignal): Promise<void>;
  /** Of a microVM that is paused. Writes all of its memory, and flushes it to the disk. */
  createSnapshot(body: SnapshotCreation, signal: AbortSignal): Promise<void>;
  /** Instead of all configuration, the serial port's excepted. */
  loadSnapshot(body: SnapshotLoad, signal: AbortSignal): Promise<void>;
}

export interface ApiTimeouts {
  /** Configuring and asking: done in memory, or by opening a file. */
  readonly requestMs: number;
  /** InstanceStart maps the guest's memory and loads kernel and initrd; Paused waits for every vCPU. */
  readonly actionMs: number;
  /** For memory to be written to a disk; the caller's signal may be shorter. */
  readonly snapshotMs: number;
}

export const DEFAULT_API_TIMEOUTS: ApiTimeouts = {
  requestMs: 5_000,
  actionMs: 30_000,
  snapshotMs: 600_000,
};

type Method = 'GET' | 'PUT' | 'PATCH';

/** Firecracker takes ten. */
const CONNECTIONS = 4;

/** Connections that the requests of a start share; to be destroyed. */
export function createConnections(): Agent {
  return new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
}

export function createFirecrackerApi(
  socketPath: string,
  timeouts: ApiTimeouts = DEFAULT_API_TIMEOUTS,
  connection?: Agent,
): FirecrackerApi {
  const peer = { socketPath, agent: connection ?? false } as const;
  const write = async (
    method: Exclude<Method, 'GET'>,
    path: string,
    body: object,
    signal: AbortSignal,
    timeoutMs = timeouts.requestMs,
  ): Promise<void> => {
    const answer = await send(peer, method, path, JSON.stringify(body), timeoutMs, signal);
    expectEmpty(`${method} ${path}`, answer);
  };
  const read = async <T>(
    path: string,
    parse: Parameters<typeof expectJson<T>>[2],
    signal: AbortSignal,
  ): Promise<T> => {
    const answer = await send(peer, 'GET', path, undefined, timeouts.requestMs, signal);
    return expectJson(`GET ${path}`, answer, parse);
  };
  return {
    describeInstance: (signal) => read('/', (value) => instanceInfoSchema.safeParse(value), signal),
    async version(signal) {
      const answer = await read('/version', (value) => versionSchema.safeParse(value), signal);
      const version = parseVersion(answer.firecracker_version);
      if (version !== undefined) return version;
      throw new WrennError('vmm_api_error', 'Firecracker answered GET /version with no version.');
    },
    putLogger: (body, signal) => write('PUT', '/logger', body, signal),
    putMetrics: (body, signal) => write('PUT', '/metrics', body, signal),
    putSerial: (body, signal) => write('PUT', '/serial', body, signal),
    putMachineConfig: (body, signal) => write('PUT', '/machine-config', body, signal),
    putBootSource: (body, signal) => write('PUT', '/boot-source', body, signal),
    putDrive: (body, signal) => write('PUT', `/drives/${body.drive_id}`, body, signal),
    patchDrive: (body, signal) => write('PATCH', `/drives/${body.drive_id}`, body, signal),
    putNetworkInterface: (body, signal) => write('PUT', `/network-interfaces/${body.iface_id}`, body, signal),
    putEntropy: (body, signal) => write('PUT', '/entropy', body, signal),
    putAction: (action, signal) =>
      write('PUT', '/actions', { action_type: action }, signal, timeouts.actionMs),
    patchVm: (state, signal) => write('PATCH', '/vm', { state }, signal, timeouts.actionMs),
    createSnapshot: (body, signal) => write('PUT', '/snapshot/create', body, signal, timeouts.snapshotMs),
    loadSnapshot: (body, signal) => write('PUT', '/snapshot/load', body, signal, timeouts.actionMs),
  };
}

function send(
  peer: { readonly socketPath: string; readonly agent: Agent | false },
  method: Method,
  path: string,
  body: string | undefined,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Answer> {
  const name = `${method} ${path}`;
  return new Promise<Answer>((resolve, reject) => {
    let settled = false;
    const finish = (outcome: Answer | WrennError): void => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      request.destroy();
      if (outcome instanceof WrennError) reject(outcome);
      else resolve(outcome);
    };
    const onAbort = (): void =>
      finish(new WrennError('cancelled', `${name} to Firecracker was cancelled.`, { cause: signal.reason }));
    const onDeadline = (): void =>
      finish(
        new WrennError('deadline_exceeded', `Firecracker did not answer ${name} within ${timeoutMs} ms.`, {
          hint: "The microVM's log may say what it was doing; a loaded host makes it slow.",
        }),
      );
    const onError = (error: Error): void => finish(transportError(name, error));

    const headers: Record<string, string | number> = { Accept: 'application/json' };
    if (body !== undefined) {
      headers['Content-Type'] = 'application/json';
      // Firecracker's server knows no chunked bodies.
      headers['Content-Length'] = Buffer.byteLength(body);
    }
    const request = httpRequest({ ...peer, method, path, headers, setHost: true });
    const timer = setTimeout(onDeadline, timeoutMs);
    request.on('error', onError);
    request.on('response', (response) => {
      const chunks: Buffer[] = [];
      let sizeBytes = 0;
      response.on('data', (chunk: Buffer) => {
        sizeBytes += chunk.length;
        if (sizeBytes <= ANSWER_LIMIT_BYTES) chunks.push(chunk);
        else finish(oversized(name));
      });
      response.on('error', onError);
      response.on('end', () => finish({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) }));
      response.on('close', () => onError(new Error('the answer was cut short')));
    });
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    else request.end(body);
  });
}

function oversized(name: string): WrennError {
  return new WrennError(
    'vmm_api_error',
    `Firecracker answered ${name} with more than ${ANSWER_LIMIT_BYTES} bytes.`,
  );
}

function transportError(name: string, error: Error): WrennError {
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  if (code.startsWith('HPE_')) {
    return new WrennError('vmm_api_error', `Firecracker answered ${name} with something that is not HTTP.`, {
      cause: error,
    });
  }
  return new WrennError('vmm_api_error', `The connection to Firecracker failed during ${name}.`, {
    hint: "The VMM may have ended: the microVM's log says more.",
    cause: error,
  });
}
