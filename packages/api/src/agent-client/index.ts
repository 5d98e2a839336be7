/** The host agent, called over its unix socket. Each call has a deadline; what it throws is a WrennError. */
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { AgentService, SandboxService, TimeoutAction } from '@wrenn/protocol/agent';
import type { ApiConfig } from '../config/schema.ts';
import {
  type AgentSandbox,
  type AgentSnapshot,
  type AgentTemplate,
  toSandbox,
  toSnapshot,
  toTemplate,
} from './convert.ts';
import { fromAgentError } from './errors.ts';
import { createAgentSession } from './session.ts';

export type { AgentSandbox, AgentSnapshot, AgentState, AgentTemplate } from './convert.ts';

export interface AgentNetwork {
  readonly allowInternetAccess?: boolean | undefined;
  readonly allowOut?: readonly string[] | undefined;
  readonly denyOut?: readonly string[] | undefined;
}

export interface AgentCreate {
  /** One of the two. */
  readonly from: { readonly template: string } | { readonly snapshotId: string };
  readonly vcpus?: number | undefined;
  readonly memoryMib?: number | undefined;
  readonly envs: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  readonly onTimeout: 'destroy' | 'hibernate';
  readonly network: AgentNetwork;
}

export interface AgentAccess {
  /** Empty while the sandbox does not run. */
  readonly address: string;
  readonly envdAccessToken: string;
  readonly envdVersion: string;
}

export interface AgentCreated {
  readonly sandbox: AgentSandbox;
  /** Undefined where it is not there any more, or the agent is of a version that is asked for it. */
  readonly access: AgentAccess | undefined;
}

export interface Agent {
  create(request: AgentCreate): Promise<AgentCreated>;
  get(id: string): Promise<AgentSandbox>;
  list(signal?: AbortSignal): Promise<readonly AgentSandbox[]>;
  resume(id: string): Promise<AgentSandbox>;
  hibernate(id: string): Promise<AgentSandbox>;
  destroy(id: string): Promise<void>;
  setTimeout(id: string, timeoutMs: number): Promise<AgentSandbox>;
  updateNetwork(id: string, network: AgentNetwork): Promise<void>;
  access(id: string, signal?: AbortSignal): Promise<AgentAccess>;
  snapshot(id: string): Promise<AgentSnapshot>;
  snapshots(): Promise<readonly AgentSnapshot[]>;
  deleteSnapshot(id: string): Promise<void>;
  fork(
    id: string,
    copies: {
      readonly count: number;
      readonly timeoutMs: number;
      readonly metadata: Readonly<Record<string, string>>;
    },
  ): Promise<readonly AgentSandbox[]>;
  templates(): Promise<readonly AgentTemplate[]>;
  deleteTemplate(name: string): Promise<void>;
  /** The end of the guest's console, at most so many bytes of it. */
  logs(id: string, maxBytes: number): Promise<Buffer>;
  /** Throws where no agent answers. */
  ping(): Promise<void>;
  close(): void;
}

/** What the client believes to call. */
const BASE_URL = 'http://agent.wrenn.internal';
const ANSWER_MAX_BYTES = 64 * 1024 * 1024;

export function createAgent(config: ApiConfig['agent']): Agent {
  const sessionManager = createAgentSession(config.socketPath, BASE_URL);
  const transport = createConnectTransport({
    httpVersion: '2',
    baseUrl: BASE_URL,
    sessionManager,
    acceptCompression: [],
    readMaxBytes: ANSWER_MAX_BYTES,
  });
  const sandboxes = createClient(SandboxService, transport);
  const agent = createClient(AgentService, transport);
  const soon = { timeoutMs: config.callTimeoutMs };
  const long = { timeoutMs: config.longCallTimeoutMs };
  const withSignal = (signal: AbortSignal | undefined) => (signal === undefined ? soon : { ...soon, signal });
  return {
    create: (request) =>
      meant(async () => {
        const { sandbox, access } = await sandboxes.createSandbox(toCreate(request), long);
        return { sandbox: toSandbox(sandbox), access: access === undefined ? undefined : toAccess(access) };
      }),
    get: (id) => meant(async () => toSandbox((await sandboxes.getSandbox({ id }, soon)).sandbox)),
    list: (signal) =>
      meant(async () => (await sandboxes.listSandboxes({}, withSignal(signal))).sandboxes.map(toSandbox)),
    resume: (id) => meant(async () => toSandbox((await sandboxes.resumeSandbox({ id }, long)).sandbox)),
    hibernate: (id) => meant(async () => toSandbox((await sandboxes.hibernateSandbox({ id }, long)).sandbox)),
    destroy: (id) => meant(async () => void (await sandboxes.destroySandbox({ id }, long))),
    setTimeout: (id, timeoutMs) =>
      meant(async () =>
        toSandbox(
          (await sandboxes.setSandboxTimeout({ id, timeout: durationFromMs(timeoutMs) }, soon)).sandbox,
        ),
      ),
    updateNetwork: (id, network) =>
      meant(
        async () => void (await sandboxes.updateSandboxNetwork({ id, network: toPolicy(network) }, long)),
      ),
    access: (id, signal) =>
      meant(async () => toAccess(await sandboxes.getSandboxAccess({ id }, withSignal(signal)))),
    snapshot: (id) => meant(async () => toSnapshot((await sandboxes.snapshotSandbox({ id }, long)).snapshot)),
    snapshots: () => meant(async () => (await sandboxes.listSnapshots({}, soon)).snapshots.map(toSnapshot)),
    deleteSnapshot: (id) => meant(async () => void (await sandboxes.deleteSnapshot({ id }, long))),
    fork: (id, { count, timeoutMs, metadata }) =>
      meant(async () => {
        const request = {
          id,
          count,
          timeout: durationFromMs(timeoutMs),
          metadata: { entries: { ...metadata } },
        };
        return (await sandboxes.forkSandbox(request, long)).sandboxes.map(toSandbox);
      }),
    templates: () => meant(async () => (await sandboxes.listTemplates({}, soon)).templates.map(toTemplate)),
    deleteTemplate: (name) => meant(async () => void (await sandboxes.deleteTemplate({ name }, long))),
    logs: (id, maxBytes) =>
      meant(async () => {
        let tail = Buffer.alloc(0);
        for await (const { data } of sandboxes.streamLogs({ id, follow: false }, soon)) {
          tail = Buffer.concat([tail, data]).subarray(-maxBytes);
        }
        return tail;
      }),
    ping: () => meant(async () => void (await agent.getInfo({}, soon))),
    close: sessionManager.close,
  };
}

async function meant<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw fromAgentError(error);
  }
}

function toCreate({ from, vcpus, memoryMib, envs, metadata, timeoutMs, onTimeout, network }: AgentCreate) {
  return {
    ...from,
    ...(vcpus === undefined ? {} : { vcpus }),
    ...(memoryMib === undefined ? {} : { memoryMib }),
    envs: { ...envs },
    metadata: { ...metadata },
    timeout: durationFromMs(timeoutMs),
    onTimeout: onTimeout === 'hibernate' ? TimeoutAction.HIBERNATE : TimeoutAction.DESTROY,
    network: toPolicy(network),
  };
}

/** Without what else a message has. */
function toAccess({ address, envdAccessToken, envdVersion }: AgentAccess): AgentAccess {
  return { address, envdAccessToken, envdVersion };
}

function toPolicy({ allowInternetAccess, allowOut = [], denyOut = [] }: AgentNetwork) {
  return {
    ...(allowInternetAccess === undefined ? {} : { allowInternetAccess }),
    allowOut: [...allowOut],
    denyOut: [...denyOut],
  };
}
