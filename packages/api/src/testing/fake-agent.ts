/**
 * A host agent in memory, on a real unix socket: the states of sandboxes as the agent has them, strictly, and no
 * microVM behind them. Every test of the API stands on it.
 */
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { type Duration, durationMs, timestampFromDate } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, type ConnectRouter } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { ERROR_KINDS, type ErrorCode, newSandboxId } from '@wrenn/protocol';
import {
  AgentService,
  ErrorDetailSchema,
  type Sandbox,
  SandboxSchema,
  SandboxService,
  SandboxState,
  type Snapshot,
  SnapshotSchema,
  TimeoutAction,
} from '@wrenn/protocol/agent';

export interface FakeAgent {
  readonly sandboxes: ReadonlyMap<string, Sandbox>;
  readonly snapshots: ReadonlyMap<string, Snapshot>;
  readonly envs: ReadonlyMap<string, Readonly<Record<string, string>>>;
  /** How often each RPC was called. */
  readonly calls: Map<string, number>;
  /** How long hibernating and waking take. */
  transitionMs: number;
  /** What hibernating and waking wait for besides, where a test holds them. */
  held: Promise<void> | undefined;
  /** Where guests are; 127.0.0.1 unless a test listens elsewhere. */
  address: string;
  /** Called as a creation is asked for, before anything comes of it. */
  onCreate: (() => void) | undefined;
  /** Thrown by the next creation. */
  failCreate: ErrorCode | undefined;
  /** Thrown where somebody asks how to reach a sandbox; creations do not tell it then. */
  failAccess: ErrorCode | undefined;
  /** The VMM ends by itself. */
  fail(id: string): void;
  /** As after a restart of the agent that could not adopt it. */
  keep(id: string): void;
  /** As after the next one, which could. */
  adopt(id: string): void;
  /** As the host's own command line does. */
  forgetSnapshot(id: string): void;
  /** Its time is over now. */
  expire(id: string): Promise<void>;
  close(): Promise<void>;
}

const TEMPLATES = ['base', 'minimal'];
const CODES = {
  invalid: Code.InvalidArgument,
  not_found: Code.NotFound,
  conflict: Code.FailedPrecondition,
  exhausted: Code.ResourceExhausted,
  unavailable: Code.Unavailable,
  timeout: Code.DeadlineExceeded,
  cancelled: Code.Canceled,
  denied: Code.PermissionDenied,
  internal: Code.Internal,
} as const;

function refuse(code: ErrorCode, message: string): ConnectError {
  return new ConnectError(message, CODES[ERROR_KINDS[code]], undefined, [
    { desc: ErrorDetailSchema, value: { code, hint: '', field: '' } },
  ]);
}

export async function startFakeAgent(socketPath: string): Promise<FakeAgent> {
  const sandboxes = new Map<string, Sandbox>();
  const snapshots = new Map<string, Snapshot>();
  const envs = new Map<string, Readonly<Record<string, string>>>();
  const tokens = new Map<string, string>();
  const templates = new Set(TEMPLATES);
  const timers = new Map<string, NodeJS.Timeout>();
  const calls = new Map<string, number>();
  const S = SandboxState;

  const find = (id: string): Sandbox => {
    const sandbox = sandboxes.get(id);
    if (sandbox === undefined) throw refuse('sandbox_not_found', `There is no sandbox ${id}.`);
    return sandbox;
  };
  const inState = (id: string, ...states: SandboxState[]): Sandbox => {
    const sandbox = find(id);
    if (sandbox.keptAs !== S.UNSPECIFIED) throw refuse('sandbox_unavailable', 'The agent does not have it.');
    if (!states.includes(sandbox.state)) {
      throw refuse('sandbox_wrong_state', `The sandbox is ${S[sandbox.state].toLowerCase()}.`);
    }
    return sandbox;
  };
  const destroy = (id: string): void => {
    clearTimeout(timers.get(id));
    timers.delete(id);
    sandboxes.delete(id);
    envs.delete(id);
  };
  const arm = (sandbox: Sandbox, timeout: Duration | undefined): void => {
    clearTimeout(timers.get(sandbox.id));
    delete sandbox.endsAt;
    if (timeout === undefined) return;
    const ms = durationMs(timeout);
    if (ms <= 0) throw refuse('invalid_argument', 'timeout must be positive.');
    sandbox.endsAt = timestampFromDate(new Date(Date.now() + ms));
    if (ms < 2 ** 31) timers.set(sandbox.id, setTimeout(() => void expire(sandbox.id), ms).unref());
  };
  const hibernate = async (sandbox: Sandbox): Promise<void> => {
    sandbox.state = S.HIBERNATING;
    await fake.held;
    await sleep(fake.transitionMs);
    clearTimeout(timers.get(sandbox.id));
    delete sandbox.endsAt;
    sandbox.address = '';
    sandbox.state = S.HIBERNATED;
  };
  const expire = async (id: string): Promise<void> => {
    const sandbox = sandboxes.get(id);
    if (sandbox?.state !== S.RUNNING) return;
    if (sandbox.onTimeout === TimeoutAction.HIBERNATE) await hibernate(sandbox);
    else destroy(id);
  };
  const add = (
    change: Partial<Omit<Sandbox, '$typeName' | '$unknown'>>,
    timeout: Duration | undefined,
  ): Sandbox => {
    const sandbox = create(SandboxSchema, {
      id: newSandboxId(),
      state: S.RUNNING,
      vcpus: 1,
      memoryMib: 512,
      diskMib: 1024,
      createdAt: timestampFromDate(new Date()),
      address: fake.address,
      ...change,
    });
    arm(sandbox, timeout);
    sandboxes.set(sandbox.id, sandbox);
    tokens.set(sandbox.id, randomBytes(16).toString('hex'));
    return sandbox;
  };
  const accessOf = ({ id, address }: Sandbox) => ({
    address,
    envdAccessToken: tokens.get(id) ?? '',
    envdVersion: '0.6.4',
  });
  const checkNetwork = ({
    allowOut = [],
    denyOut = [],
  }: {
    allowOut?: string[];
    denyOut?: string[];
  } = {}): void => {
    const isName = (entry: string) => /[a-z]/i.test(entry);
    if (denyOut.some(isName) || [...allowOut, ...denyOut].some((entry) => !/^[a-z0-9.*/-]+$/i.test(entry))) {
      throw refuse('invalid_argument', 'network.deny_out: that is no address.');
    }
    if (allowOut.some(isName) && !denyOut.includes('0.0.0.0/0')) {
      throw refuse('invalid_argument', 'network.allow_out has names, and not everything else is denied.');
    }
  };

  const fake: FakeAgent = {
    sandboxes,
    snapshots,
    envs,
    calls,
    transitionMs: 5,
    held: undefined,
    address: '127.0.0.1',
    onCreate: undefined,
    failCreate: undefined,
    failAccess: undefined,
    fail: (id) => {
      find(id).state = S.FAILED;
    },
    keep: (id) => {
      const sandbox = find(id);
      sandbox.keptAs = sandbox.state;
      sandbox.state = S.FAILED;
      sandbox.reason = 'It could not be adopted: EMFILE.';
      sandbox.address = '';
    },
    adopt: (id) => {
      const sandbox = find(id);
      sandbox.state = sandbox.keptAs;
      sandbox.keptAs = S.UNSPECIFIED;
      sandbox.reason = '';
      sandbox.address = fake.address;
    },
    forgetSnapshot: (id) => void snapshots.delete(id),
    expire,
    close: async () => {
      for (const timer of timers.values()) clearTimeout(timer);
      for (const session of sessions) session.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };

  const routes = (router: ConnectRouter) => {
    router.service(AgentService, {
      getInfo: () => ({ version: 'fake', driver: 'fake', sandboxes: sandboxes.size }),
      getMetrics: () => ({ text: '' }),
    });
    router.service(SandboxService, {
      createSandbox: (request) => {
        fake.onCreate?.();
        if (fake.failCreate !== undefined) {
          const code = fake.failCreate;
          fake.failCreate = undefined;
          throw refuse(code, 'That is not to be.');
        }
        const template = request.template || 'base';
        const known = templates.has(template) || [...templates].some((name) => `build-${name}` === template);
        if (request.snapshotId === '' && !known)
          throw refuse('template_not_found', 'There is no such template.');
        if (request.snapshotId !== '' && !snapshots.has(request.snapshotId)) {
          throw refuse('snapshot_not_found', 'There is no such snapshot.');
        }
        checkNetwork(request.network);
        const sandbox = add(
          {
            template,
            metadata: request.metadata,
            snapshotId: request.snapshotId,
            onTimeout: request.onTimeout,
            ...(request.network === undefined ? {} : { network: request.network }),
            ...(request.vcpus === undefined ? {} : { vcpus: request.vcpus }),
            ...(request.memoryMib === undefined ? {} : { memoryMib: request.memoryMib }),
          },
          request.timeout,
        );
        envs.set(sandbox.id, request.envs);
        return { sandbox, ...(fake.failAccess === undefined ? { access: accessOf(sandbox) } : {}) };
      },
      getSandbox: ({ id }) => ({ sandbox: find(id) }),
      listSandboxes: () => ({ sandboxes: [...sandboxes.values()].reverse() }),
      pauseSandbox: ({ id }) => {
        const sandbox = inState(id, S.RUNNING);
        sandbox.state = S.PAUSED;
        return { sandbox };
      },
      resumeSandbox: async ({ id }) => {
        const sandbox = inState(id, S.PAUSED, S.HIBERNATED);
        sandbox.state = S.RESUMING;
        await fake.held;
        await sleep(fake.transitionMs);
        sandbox.address = fake.address;
        sandbox.state = S.RUNNING;
        return { sandbox };
      },
      hibernateSandbox: async ({ id }) => {
        const sandbox = inState(id, S.RUNNING, S.PAUSED);
        await hibernate(sandbox);
        return { sandbox };
      },
      snapshotSandbox: ({ id }) => {
        const { template, vcpus, memoryMib } = inState(id, S.RUNNING, S.PAUSED, S.HIBERNATED);
        const snapshot = create(SnapshotSchema, {
          id: newSandboxId(),
          sandboxId: id,
          template,
          vcpus,
          memoryMib,
          createdAt: timestampFromDate(new Date()),
        });
        snapshots.set(snapshot.id, snapshot);
        return { snapshot };
      },
      forkSandbox: ({ id, count, metadata, timeout }) => {
        const { template, network, onTimeout } = inState(id, S.RUNNING);
        if (count < 1) throw refuse('invalid_argument', 'count must be positive.');
        const change = {
          template,
          onTimeout,
          metadata: metadata?.entries ?? {},
          ...(network ? { network } : {}),
        };
        return { sandboxes: Array.from({ length: count }, () => add(change, timeout)) };
      },
      listTemplates: () => ({
        templates: [...templates].map((name) => ({
          name,
          buildId: `build-${name}`,
          createdAt: timestampFromDate(new Date(1000)),
          vcpus: 1,
          memoryMib: 512,
          diskMib: 1024,
          envdVersion: '0.6.4',
        })),
      }),
      deleteTemplate: ({ name }) => {
        if (!templates.has(name)) throw refuse('template_not_found', 'There is no such template.');
        const users = [...sandboxes.values()].filter(({ template }) => template === name);
        if (users.length > 0) throw refuse('template_in_use', `It is used by ${users.length} sandboxes.`);
        templates.delete(name);
        return {};
      },
      listSnapshots: () => ({ snapshots: [...snapshots.values()].reverse() }),
      deleteSnapshot: ({ id }) => {
        if (!snapshots.delete(id)) throw refuse('snapshot_not_found', 'There is no such snapshot.');
        return {};
      },
      destroySandbox: ({ id }) => {
        destroy(id);
        return {};
      },
      setSandboxTimeout: ({ id, timeout }) => {
        const sandbox = inState(id, S.RUNNING, S.PAUSED);
        arm(sandbox, timeout);
        return { sandbox };
      },
      updateSandboxNetwork: ({ id, network }) => {
        const sandbox = inState(id, S.RUNNING, S.PAUSED);
        checkNetwork(network);
        if (network !== undefined) sandbox.network = network;
        return { sandbox };
      },
      getSandboxAccess: ({ id }) => {
        if (fake.failAccess !== undefined) throw refuse(fake.failAccess, 'That is not to be told.');
        const sandbox = find(id);
        if (sandbox.state === S.FAILED && sandbox.keptAs === S.UNSPECIFIED)
          throw refuse('sandbox_failed', 'The sandbox has failed.');
        return accessOf(sandbox);
      },
      streamLogs: async function* ({ id }) {
        find(id);
        yield { data: Buffer.from('[    0.100000] Linux version 6.1\r\n[    1.500000] wrenn-init: ') };
        yield { data: Buffer.from('started\n\u001b[31mhello\u001b[0m \u0000world\n') };
      },
    });
  };

  const counted = {
    interceptors: [
      (next: Parameters<NonNullable<Parameters<typeof connectNodeAdapter>[0]['interceptors']>[number]>[0]) =>
        async (request: Parameters<typeof next>[0]) => {
          calls.set(request.method.name, (calls.get(request.method.name) ?? 0) + 1);
          return await next(request);
        },
    ],
  };
  const sessions = new Set<import('node:http2').ServerHttp2Session>();
  const server = createServer(connectNodeAdapter({ routes, ...counted }));
  server.on('session', (session) => {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  return fake;
}
