/** The three services, each method a few lines: parse, ask the manager, answer. */
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ConnectRouter } from '@connectrpc/connect';
import { ENVD_VERSION, WrennError } from '@wrenn/protocol';
import {
  AgentService,
  type ExecRequest,
  GuestService,
  SandboxService,
  type WriteFileRequest,
} from '@wrenn/protocol/agent';
import type { ExecInput } from '../sandbox/exec.ts';
import type { FileTarget } from '../sandbox/guest.ts';
import type { SandboxManager } from '../sandbox/manager.ts';
import { withinMs } from '../signals/signals.ts';
import {
  toCreateRequest,
  toEgress,
  toExecInput,
  toExecRequest,
  toExecResponse,
  toFileEntryProto,
  toMs,
  toSandboxProto,
  toSnapshotProto,
  toTemplateProto,
} from './convert.ts';
import type { Metrics } from './metrics.ts';

export interface AgentInfo {
  readonly version: string;
  readonly startedAtMs: number;
  readonly driver: string;
  readonly accelerator: string;
  readonly driverVersion: string;
  /** Why this driver runs new microVMs. */
  readonly driverReason: string;
}

export interface ServiceParts {
  readonly manager: SandboxManager;
  readonly metrics: Metrics;
  readonly info: AgentInfo;
  /** By when whoever opens a stream has said what for. */
  readonly firstMessageMs?: number;
}

const FIRST_MESSAGE_MS = 30_000;
const MODE_MASK = 0o7777;

export function registerServices(router: ConnectRouter, parts: ServiceParts): void {
  const { manager, metrics, info, firstMessageMs = FIRST_MESSAGE_MS } = parts;
  router.service(AgentService, {
    getInfo: () => ({
      version: info.version,
      startedAt: timestampFromMs(info.startedAtMs),
      driver: info.driver,
      accelerator: info.accelerator,
      driverVersion: info.driverVersion,
      driverReason: info.driverReason,
      sandboxes: manager.liveCount(),
      pid: process.pid,
    }),
    getMetrics: () => ({ text: metrics.render(manager.list()) }),
  });

  const accessOf = (id: string) => {
    const { address, accessToken } = manager.access(id);
    return { address: address ?? '', envdAccessToken: accessToken, envdVersion: ENVD_VERSION };
  };
  /** One that has just been made may have come to its end by now. It was made all the same. */
  const accessIfThere = (id: string) => {
    try {
      return accessOf(id);
    } catch (error) {
      if (error instanceof WrennError) return undefined;
      throw error;
    }
  };

  router.service(SandboxService, {
    createSandbox: async (request) => {
      const view = await manager.create(toCreateRequest(request));
      return { sandbox: toSandboxProto(view), access: accessIfThere(view.id) };
    },
    getSandbox: ({ id }) => ({ sandbox: toSandboxProto(manager.get(id)) }),
    listSandboxes: () => ({ sandboxes: manager.list().map(toSandboxProto) }),
    pauseSandbox: async ({ id }) => ({ sandbox: toSandboxProto(await manager.pause(id)) }),
    resumeSandbox: async ({ id }) => ({ sandbox: toSandboxProto(await manager.resume(id)) }),
    hibernateSandbox: async ({ id }) => ({ sandbox: toSandboxProto(await manager.hibernate(id)) }),
    snapshotSandbox: async ({ id }) => ({ snapshot: toSnapshotProto(await manager.snapshot(id)) }),
    forkSandbox: async ({ id, count, metadata, timeout }) => {
      const request = { count, metadata: metadata?.entries, timeoutMs: toMs(timeout, 'timeout') };
      return { sandboxes: (await manager.fork(id, request)).map(toSandboxProto) };
    },
    warmTemplate: async ({ template, vcpus, memoryMib, diskMib }) => ({
      snapshot: toSnapshotProto(await manager.warmTemplate({ template, vcpus, memoryMib, diskMib })),
    }),
    deleteTemplate: async ({ name }) => {
      await manager.deleteTemplate(name);
      return {};
    },
    listSnapshots: () => ({ snapshots: manager.listSnapshots().map(toSnapshotProto) }),
    deleteSnapshot: async ({ id }) => {
      await manager.deleteSnapshot(id);
      return {};
    },
    destroySandbox: async ({ id }) => {
      await manager.destroy(id);
      return {};
    },
    setSandboxTimeout: async ({ id, timeout }) => ({
      sandbox: toSandboxProto(await manager.setTimeout(id, toMs(timeout, 'timeout'))),
    }),
    updateSandboxNetwork: async ({ id, network }) => ({
      sandbox: toSandboxProto(await manager.setEgress(id, toEgress(network))),
    }),
    getSandboxAccess: ({ id }) => accessOf(id),
    listTemplates: async () => ({ templates: (await manager.listTemplates()).map(toTemplateProto) }),
    streamLogs: async function* ({ id, follow }, { signal }) {
      const encoder = new TextEncoder();
      for await (const text of manager.logs(id, follow, signal)) yield { data: encoder.encode(text) };
    },
  });

  router.service(GuestService, {
    exec: async function* (requests, { signal }) {
      const messages = requests[Symbol.asyncIterator]();
      const first = await withinMs(firstMessageMs, 'The first message', messages.next());
      if (first.done === true || first.value.message.case !== 'start') {
        throw new WrennError('invalid_argument', 'The first message must be `start`.', { field: 'message' });
      }
      const start = first.value.message.value;
      const outputs = manager.exec(start.sandboxId, toExecRequest(start), signal, execInputs(messages));
      for await (const output of outputs) yield toExecResponse(output);
    },
    readFile: async function* (request, { signal }) {
      const files = manager.files(request.sandboxId);
      for await (const data of files.read(toTarget(request), signal)) yield { data };
    },
    writeFile: async (requests, { signal }) => {
      const messages = requests[Symbol.asyncIterator]();
      const first = await withinMs(firstMessageMs, 'The first message', messages.next());
      if (first.done === true || first.value.message.case !== 'open') {
        throw new WrennError('invalid_argument', 'The first message must be `open`.', { field: 'message' });
      }
      const open = first.value.message.value;
      const files = manager.files(open.sandboxId);
      // The type bits that a stat has, and that a caller may hand through, are not permissions.
      const mode = open.mode === undefined ? undefined : open.mode & MODE_MASK;
      const entry = await files.write(toTarget(open), mode, fileData(messages), signal);
      return { entry: toFileEntryProto(entry) };
    },
    statFile: async (request, { signal }) => ({
      entry: toFileEntryProto(await manager.files(request.sandboxId).stat(toTarget(request), signal)),
    }),
    listFiles: async (request, { signal }) => {
      const entries = await manager.files(request.sandboxId).list(toTarget(request), request.depth, signal);
      return { entries: entries.map(toFileEntryProto) };
    },
    makeDirectory: async (request, { signal }) => ({
      entry: toFileEntryProto(
        await manager.files(request.sandboxId).makeDirectory(toTarget(request), signal),
      ),
    }),
    removeFile: async (request, { signal }) => {
      await manager.files(request.sandboxId).remove(toTarget(request), signal);
      return {};
    },
  });
}

function toTarget({ path, user }: { readonly path: string; readonly user: string }): FileTarget {
  return { path, user: user === '' ? undefined : user };
}

async function* execInputs(messages: AsyncIterator<ExecRequest>): AsyncGenerator<ExecInput> {
  for (;;) {
    const next = await messages.next();
    if (next.done === true) return;
    yield toExecInput(next.value);
  }
}

async function* fileData(messages: AsyncIterator<WriteFileRequest>): AsyncGenerator<Uint8Array> {
  for (;;) {
    const next = await messages.next();
    if (next.done === true) return;
    const { message } = next.value;
    if (message.case !== 'data') {
      throw new WrennError('invalid_argument', 'After the first message, a file takes data only.', {
        field: 'message',
      });
    }
    yield message.value;
  }
}
