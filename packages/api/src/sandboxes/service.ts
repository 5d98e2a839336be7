/** What can be done with sandboxes, for one caller at a time: another team's does not exist for them. */
import { randomBytes } from 'node:crypto';
import { WrennError } from '@wrenn/protocol';
import type { Agent, AgentAccess, AgentSandbox } from '../agent-client/index.ts';
import type { ApiConfig } from '../config/schema.ts';
import type { Logger } from '../log.ts';
import type { Store } from '../store/index.ts';
import type { NetworkSettings, NewSandboxRecord, SandboxRecord } from '../store/sandboxes.ts';
import type { ReadActivity } from './activity.ts';
import { type Caller, noSandbox, sandboxIdOf } from './caller.ts';
import { type Creations, RESERVED_METADATA } from './creations.ts';
import { LOG_TAIL_BYTES, type LogLine, mergedByTime, parseConsole } from './logs.ts';
import type { MetricPoint, MetricsHistory } from './metrics.ts';
import type { Places } from './places.ts';
import type { Origin, Templates } from './templates.ts';
import type { Waker } from './waker.ts';
import type { Watcher } from './watcher.ts';

export interface CreateRequest {
  readonly template: string;
  readonly timeoutMs: number;
  readonly envs: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly network: NetworkSettings;
  readonly autoPause: boolean;
  readonly autoResume: boolean;
  readonly vcpus: number | undefined;
  readonly memoryMib: number | undefined;
}

/** A sandbox as its owner sees it. */
export interface SandboxView {
  readonly record: SandboxRecord | NewSandboxRecord;
  readonly sandbox: AgentSandbox;
  readonly state: 'running' | 'paused';
}

export interface AccessibleSandbox extends SandboxView {
  readonly access: AgentAccess;
}

export interface SandboxService {
  create(caller: Caller, request: CreateRequest): Promise<AccessibleSandbox>;
  get(caller: Caller, id: string): Promise<AccessibleSandbox>;
  list(caller: Caller): Promise<readonly SandboxView[]>;
  /** Never shortens its time; wakes it if it is paused, and says so. */
  connect(
    caller: Caller,
    id: string,
    timeoutMs: number,
  ): Promise<AccessibleSandbox & { readonly resumed: boolean }>;
  /** As connect, but refused where it runs. */
  resume(caller: Caller, id: string, timeoutMs: number): Promise<AccessibleSandbox>;
  pause(caller: Caller, id: string): Promise<void>;
  kill(caller: Caller, id: string): Promise<void>;
  setTimeout(caller: Caller, id: string, timeoutMs: number): Promise<void>;
  /** Extends its time, never shortens it. */
  refresh(caller: Caller, id: string, timeoutMs: number): Promise<void>;
  updateNetwork(caller: Caller, id: string, network: NetworkSettings): Promise<void>;
  fork(caller: Caller, id: string, count: number, timeoutMs: number): Promise<readonly AccessibleSandbox[]>;
  snapshot(caller: Caller, id: string, name: string | undefined): ReturnType<Templates['addSnapshot']>;
  /** Its console, and, while it runs, which processes were started through its agent. */
  logs(caller: Caller, id: string): Promise<readonly LogLine[]>;
  metrics(caller: Caller, id: string, from?: Date, to?: Date): Promise<readonly MetricPoint[]>;
}

export interface ServiceDeps {
  readonly agent: Agent;
  readonly store: Store;
  readonly config: ApiConfig['sandboxes'];
  readonly places: Places;
  readonly creations: Creations;
  readonly watcher: Watcher;
  readonly waker: Waker;
  readonly templates: Templates;
  readonly metrics: MetricsHistory;
  readonly activity: ReadActivity;
  readonly log: Logger;
}

const TRAFFIC_TOKEN_BYTES = 24;
const EXTENSION_MIN_MS = 1000;
/** One that is to end at once is there until whoever asked for it can have been told of it. */
const FIRST_TIMEOUT_MIN_MS = 1000;

/** What the agent has made, before anybody knows. */
interface Born {
  readonly sandboxes: readonly { readonly sandbox: AgentSandbox; readonly record: NewSandboxRecord }[];
  /** What its use is counted under. */
  readonly template?: string | undefined;
}

interface Made {
  readonly record: NewSandboxRecord;
  readonly sandbox: AgentSandbox;
  readonly access: Promise<AgentAccess>;
}

export function createSandboxService(deps: ServiceDeps): SandboxService {
  const { agent, store, config, places, creations, watcher, waker, templates, metrics, activity, log } = deps;

  const own = async (caller: Caller, text: string): Promise<SandboxRecord> => {
    const record = await store.sandboxes.get(sandboxIdOf(text));
    if (record === undefined || record.teamId !== caller.teamId) throw noSandbox(text);
    return record;
  };

  const look = async (caller: Caller, text: string) => {
    const record = await own(caller, text);
    const sandbox = await agent.get(record.id);
    if (sandbox.state === 'failed' || sandbox.state === 'destroying') throw noSandbox(text);
    return { record, sandbox };
  };

  const checkTimeout = (timeoutMs: number): void => {
    if (timeoutMs <= config.maxTimeoutS * 1000) return;
    throw new WrennError('invalid_argument', `timeout: at most ${config.maxTimeoutS} seconds.`, {
      field: 'timeout',
    });
  };

  const checkMetadata = (metadata: Readonly<Record<string, string>>): void => {
    const entries = Object.entries(metadata);
    const bytes = entries.reduce(
      (sum, [key, value]) => sum + Buffer.byteLength(key) + Buffer.byteLength(value),
      0,
    );
    const wrong =
      entries.length > config.maxMetadataEntries
        ? `at most ${config.maxMetadataEntries} entries`
        : bytes > config.maxMetadataBytes
          ? `at most ${config.maxMetadataBytes} bytes`
          : entries.some(([key]) => key.startsWith(RESERVED_METADATA))
            ? `keys that begin with ${RESERVED_METADATA} are Wrenn's own`
            : undefined;
    if (wrong !== undefined) {
      throw new WrennError('invalid_argument', `metadata: ${wrong}.`, { field: 'metadata' });
    }
  };

  const checkSize = ({ limits: most }: Caller, vcpus: number, memoryMib: number): void => {
    if (vcpus > most.maxVcpus) {
      throw new WrennError('invalid_argument', `cpuCount: this API key may have ${most.maxVcpus} at most.`, {
        field: 'cpuCount',
      });
    }
    if (memoryMib > most.maxMemoryMib) {
      throw new WrennError(
        'invalid_argument',
        `memoryMB: this API key may have ${most.maxMemoryMib} at most.`,
        {
          field: 'memoryMB',
        },
      );
    }
  };

  /** Sets its time to what it is from now, or only to more. */
  const give = async (record: SandboxRecord, timeoutMs: number): Promise<AgentSandbox> => {
    const sandbox = await agent.setTimeout(record.id, Math.max(1, timeoutMs));
    watcher.note(sandbox);
    await store.sandboxes.setTimeout(
      record.id,
      timeoutMs,
      sandbox.endsAt ?? new Date(Date.now() + timeoutMs),
    );
    return sandbox;
  };
  /** Many clients connect to one sandbox at once, and the agent has a queue for each: one of them asks for all. */
  const extensions = new Map<string, Promise<AgentSandbox>>();
  const extend = async (
    record: SandboxRecord,
    sandbox: AgentSandbox,
    timeoutMs: number,
  ): Promise<AgentSandbox> => {
    let known = sandbox;
    for (;;) {
      const missingMs = Date.now() + timeoutMs - (known.endsAt?.getTime() ?? 0);
      // Clients count in seconds.
      if (missingMs < EXTENSION_MIN_MS) return known;
      const underWay = extensions.get(record.id);
      if (underWay === undefined) break;
      known = await underWay.catch(() => known);
    }
    const extension = give(record, timeoutMs).finally(() => extensions.delete(record.id));
    extensions.set(record.id, extension);
    return await extension;
  };

  const connect = async (caller: Caller, id: string, timeoutMs: number) => {
    checkTimeout(timeoutMs);
    const { record, sandbox } = await look(caller, id);
    const underWay = waker.waking(record.id);
    const paused = stateOf(sandbox) === 'paused';
    if (underWay === undefined && !paused) {
      if (sandbox.state !== 'running') throw inTransition(sandbox);
      const extended = await extend(record, sandbox, timeoutMs);
      return { ...(await accessible(record, extended)), resumed: false };
    }
    const woken = await (underWay ?? waker.wake(record, timeoutMs));
    const extended = await extend(record, woken, timeoutMs);
    return { ...(await accessible(record, extended)), resumed: true };
  };

  const accessible = async (record: SandboxRecord | NewSandboxRecord, sandbox: AgentSandbox) => ({
    record,
    sandbox,
    state: stateOf(sandbox),
    access: await agent.access(sandbox.id),
  });

  /** Of one that is new: where nobody can be told how to reach it, it is of no use to anybody. */
  const accessibleOrEnded = async ({ record, sandbox, access }: Made): Promise<AccessibleSandbox> => {
    try {
      return { record, sandbox, state: stateOf(sandbox), access: await access };
    } catch (error) {
      await agent.destroy(sandbox.id).catch(() => {});
      await store.sandboxes.markEnded([sandbox.id], new Date());
      watcher.noteGone(sandbox.id, true);
      throw error;
    }
  };

  /** All that is new is made here: within the key's limits, and kept before anybody is told of it. */
  const make = async <T>(
    caller: Caller,
    { count, autoPause }: { readonly count: number; readonly autoPause: boolean },
    checked: Promise<T>,
    bear: (checked: T, marks: Readonly<Record<string, string>>) => Promise<Born>,
  ): Promise<readonly AccessibleSandbox[]> => {
    const holding = places.forNew(caller, count, autoPause);
    // That a request is wrong is said first; nobody may be listening by the time this fails.
    holding.catch(() => {});
    try {
      const request = await checked;
      places.pace(caller, count);
      await holding;
      let made: readonly Made[] = [];
      await creations.run(caller.teamId, async (marks) => {
        const { sandboxes, template } = await bear(request, marks);
        // How to reach them is asked while they are being kept.
        made = sandboxes.map((one) => ({ ...one, access: agent.access(one.sandbox.id) }));
        for (const { access } of made) access.catch(() => {});
        return { records: made.map(({ record }) => record), template };
      });
      for (const { sandbox } of made) watcher.note(sandbox);
      return await Promise.all(made.map(accessibleOrEnded));
    } finally {
      // Waited for: whoever is told that nothing was made finds the room free.
      await holding.then(
        (release) => release(),
        () => {},
      );
    }
  };

  return {
    create: async (caller, request) => {
      checkTimeout(request.timeoutMs);
      checkMetadata(request.metadata);
      const { template: asked, ...settings } = request;
      const checked = async (): Promise<Origin> => {
        const found = await templates.resolve(caller, asked);
        if ('snapshotId' in found.from && (request.vcpus ?? request.memoryMib) !== undefined) {
          throw new WrennError('invalid_argument', 'cpuCount, memoryMB: a snapshot has its own.', {
            field: 'cpuCount',
          });
        }
        checkSize(caller, request.vcpus ?? found.vcpus, request.memoryMib ?? found.memoryMib);
        return found;
      };
      const [one] = await make(
        caller,
        { count: 1, autoPause: request.autoPause },
        checked(),
        async ({ from, template }, marks) => {
          const sandbox = await agent.create({
            ...settings,
            from,
            metadata: { ...request.metadata, ...marks },
            timeoutMs: Math.max(FIRST_TIMEOUT_MIN_MS, request.timeoutMs),
            onTimeout: request.autoPause ? 'hibernate' : 'destroy',
          });
          return { template, sandboxes: [{ sandbox, record: toRecord(caller, sandbox, request) }] };
        },
      );
      if (one === undefined) throw new WrennError('internal', 'A creation ended without a sandbox.');
      return one;
    },
    get: async (caller, id) => {
      const { record, sandbox } = await look(caller, id);
      return await accessible(record, sandbox);
    },
    list: async (caller) => {
      const [records, sandboxes] = await Promise.all([store.sandboxes.live(caller.teamId), agent.list()]);
      const known = new Map(sandboxes.map((sandbox) => [sandbox.id, sandbox]));
      return records.flatMap((record) => {
        const sandbox = known.get(record.id);
        if (sandbox === undefined || sandbox.state === 'failed' || sandbox.state === 'destroying') return [];
        return [{ record, sandbox, state: stateOf(sandbox) }];
      });
    },
    connect,
    resume: async (caller, id, timeoutMs) => {
      const { sandbox } = await look(caller, id);
      if (sandbox.state === 'running') throw conflict('The sandbox is running already.');
      return await connect(caller, id, timeoutMs);
    },
    pause: async (caller, id) => {
      const { record, sandbox } = await look(caller, id);
      if (sandbox.state === 'hibernated' || sandbox.state === 'paused')
        throw conflict('The sandbox is paused already.');
      if (sandbox.state !== 'running' || waker.waking(record.id) !== undefined) throw inTransition(sandbox);
      const release = await places.toPause(record);
      try {
        await agent.hibernate(record.id);
      } finally {
        release();
      }
      watcher.noteGone(record.id, false);
    },
    kill: async (caller, id) => {
      const record = await own(caller, id);
      await agent.destroy(record.id);
      await store.sandboxes.markEnded([record.id], new Date());
      watcher.noteGone(record.id, true);
    },
    setTimeout: async (caller, id, timeoutMs) => {
      checkTimeout(timeoutMs);
      const { record, sandbox } = await look(caller, id);
      assertTimed(sandbox);
      await give(record, timeoutMs);
    },
    refresh: async (caller, id, timeoutMs) => {
      checkTimeout(timeoutMs);
      const { record, sandbox } = await look(caller, id);
      assertTimed(sandbox);
      await extend(record, sandbox, timeoutMs);
    },
    updateNetwork: async (caller, id, network) => {
      const { record } = await look(caller, id);
      await agent.updateNetwork(record.id, network);
      // Egress alone is replaced: who may come in was settled at the creation.
      const { allowPublicTraffic, maskRequestHost } = record.network;
      await store.sandboxes.setNetwork(record.id, { ...network, allowPublicTraffic, maskRequestHost });
    },
    fork: async (caller, id, count, timeoutMs) => {
      checkTimeout(timeoutMs);
      if (count > config.maxForks) {
        throw new WrennError('invalid_argument', `count: at most ${config.maxForks}.`, { field: 'count' });
      }
      const { record, sandbox } = await look(caller, id);
      if (sandbox.state !== 'running') throw inTransition(sandbox);
      checkSize(caller, sandbox.vcpus, sandbox.memoryMib);
      return await make(
        caller,
        { count, autoPause: record.autoPause },
        Promise.resolve(),
        async (_, marks) => {
          const metadata = { ...record.metadata, ...marks };
          const copies = await agent.fork(record.id, {
            count,
            timeoutMs: Math.max(FIRST_TIMEOUT_MIN_MS, timeoutMs),
            metadata,
          });
          const fromParent = { ...record, timeoutMs };
          return {
            sandboxes: copies.map((sandbox) => ({ sandbox, record: toRecord(caller, sandbox, fromParent) })),
          };
        },
      );
    },
    snapshot: async (caller, id, name) => {
      const { record, sandbox } = await look(caller, id);
      if (sandbox.state === 'hibernating' || sandbox.state === 'resuming') throw inTransition(sandbox);
      const release = await places.forSnapshot(caller);
      try {
        return await templates.addSnapshot(caller, record.id, name);
      } finally {
        release();
      }
    },
    logs: async (caller, id) => {
      const { record, sandbox } = await look(caller, id);
      const done = sandbox.state === 'running' ? activity(record.id) : Promise.resolve([]);
      const [console, entries] = await Promise.all([
        agent.logs(record.id, LOG_TAIL_BYTES),
        // An agent of another age knows nothing of it, and a guest may say what it likes.
        done.catch((err: unknown) => {
          log.debug({ err, sandboxId: record.id }, 'the guest does not tell what was done');
          return [];
        }),
      ]);
      // What its template or a pool did before is nobody's.
      const own = entries.filter(({ at }) => at >= record.createdAt);
      return mergedByTime(parseConsole(console, record.createdAt), own);
    },
    metrics: async (caller, id, from, to) => {
      const { record, sandbox } = await look(caller, id);
      if (!watcher.view.has(record.id)) watcher.note(sandbox);
      return await metrics.read(record.id, from, to);
    },
  };
}

type Settings = Pick<
  CreateRequest,
  'template' | 'metadata' | 'network' | 'autoPause' | 'autoResume' | 'timeoutMs'
>;

function toRecord(caller: Caller, sandbox: AgentSandbox, settings: Settings): NewSandboxRecord {
  const { template, metadata, network, autoPause, autoResume, timeoutMs } = settings;
  return {
    id: sandbox.id,
    teamId: caller.teamId,
    keyId: caller.keyId,
    template,
    metadata,
    trafficToken:
      network.allowPublicTraffic === false ? randomBytes(TRAFFIC_TOKEN_BYTES).toString('hex') : undefined,
    network,
    autoPause,
    autoResume,
    timeoutMs,
    createdAt: sandbox.createdAt,
    endsAt: sandbox.endsAt ?? new Date(sandbox.createdAt.getTime() + timeoutMs),
  };
}

export function stateOf({ state }: AgentSandbox): 'running' | 'paused' {
  return state === 'hibernated' || state === 'hibernating' || state === 'paused' ? 'paused' : 'running';
}

function inTransition({ state }: AgentSandbox): WrennError {
  return conflict(`The sandbox is ${state}: try again when that is done.`);
}

/** One that is paused has no time. 404 is all that SDKs expect here besides success. */
function assertTimed(sandbox: AgentSandbox): void {
  if (stateOf(sandbox) !== 'paused') return;
  if (sandbox.state === 'hibernating') throw inTransition(sandbox);
  throw new WrennError(
    'sandbox_not_found',
    'The sandbox does not run: it is paused, and gets its time from who connects to it.',
  );
}

function conflict(message: string): WrennError {
  return new WrennError('sandbox_wrong_state', message);
}
