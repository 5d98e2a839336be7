/** What can be done with sandboxes, for one caller at a time: another team's does not exist for them. */
import type { Agent, AgentSandbox } from '../agent-client/index.ts';
import type { ApiConfig } from '../config/schema.ts';
import type { Logger } from '../log.ts';
import type { Store } from '../store/index.ts';
import type { NetworkSettings, SandboxRecord } from '../store/sandboxes.ts';
import type { ReadActivity } from './activity.ts';
import { createBounds } from './bounds.ts';
import { type Caller, noSandbox, sandboxIdOf } from './caller.ts';
import type { Creations } from './creations.ts';
import type { Listing } from './listing.ts';
import { LOG_TAIL_BYTES, type LogLine, mergedByTime, parseConsole } from './logs.ts';
import { type CreateRequest, createMaking } from './making.ts';
import type { MetricPoint, MetricsHistory } from './metrics.ts';
import type { Places } from './places.ts';
import type { Templates } from './templates.ts';
import { createTime } from './time.ts';
import {
  type AccessibleSandbox,
  assertHad,
  assertTimed,
  conflict,
  hasEnded,
  inTransition,
  type SandboxView,
  stateOf,
} from './view.ts';
import type { Waker } from './waker.ts';
import type { Watcher } from './watcher.ts';

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
  readonly listing: Listing;
  readonly places: Places;
  readonly creations: Creations;
  readonly watcher: Watcher;
  readonly waker: Waker;
  readonly templates: Templates;
  readonly metrics: MetricsHistory;
  readonly activity: ReadActivity;
  readonly log: Logger;
}

export function createSandboxService(deps: ServiceDeps): SandboxService {
  const { agent, store, listing, places, watcher, waker, templates, metrics, activity, log } = deps;
  const bounds = createBounds(deps.config);
  const time = createTime({ agent, store: store.sandboxes, watcher });
  const making = createMaking(deps);

  const own = async (caller: Caller, text: string): Promise<SandboxRecord> => {
    const record = await store.sandboxes.get(sandboxIdOf(text));
    if (record === undefined || record.teamId !== caller.teamId) throw noSandbox(text);
    return record;
  };

  const look = async (caller: Caller, text: string) => {
    const record = await own(caller, text);
    const sandbox = await agent.get(record.id);
    if (hasEnded(sandbox)) throw noSandbox(text);
    return { record, sandbox };
  };

  /** Where the sandbox itself is needed, and not only what is known of it. */
  const lookToUse = async (caller: Caller, text: string) => {
    const found = await look(caller, text);
    assertHad(found.sandbox);
    return found;
  };

  const connect = async (caller: Caller, id: string, timeoutMs: number) => {
    bounds.checkTimeout(timeoutMs);
    const { record, sandbox } = await lookToUse(caller, id);
    const underWay = waker.waking(record.id);
    const paused = stateOf(sandbox) === 'paused';
    if (underWay === undefined && !paused) {
      if (sandbox.state !== 'running') throw inTransition(sandbox);
      const extended = await time.extend(record, sandbox, timeoutMs);
      return { ...(await accessible(record, extended)), resumed: false };
    }
    const woken = await (underWay ?? waker.wake(record, timeoutMs));
    const extended = await time.extend(record, woken, timeoutMs);
    return { ...(await accessible(record, extended)), resumed: true };
  };

  const accessible = async (record: SandboxRecord, sandbox: AgentSandbox) => ({
    record,
    sandbox,
    state: stateOf(sandbox),
    access: await agent.access(sandbox.id),
  });

  return {
    create: async (caller, request) => {
      bounds.checkTimeout(request.timeoutMs);
      bounds.checkMetadata(request.metadata);
      return await making.create(caller, request);
    },
    get: async (caller, id) => {
      const { record, sandbox } = await look(caller, id);
      return await accessible(record, sandbox);
    },
    list: async (caller) => {
      const found = await listing(caller.teamId);
      return found.flatMap(({ record, sandbox }) =>
        hasEnded(sandbox) ? [] : [{ record, sandbox, state: stateOf(sandbox) }],
      );
    },
    connect,
    resume: async (caller, id, timeoutMs) => {
      const { sandbox } = await lookToUse(caller, id);
      if (sandbox.state === 'running') throw conflict('The sandbox is running already.');
      return await connect(caller, id, timeoutMs);
    },
    pause: async (caller, id) => {
      const { record, sandbox } = await lookToUse(caller, id);
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
      bounds.checkTimeout(timeoutMs);
      const { record, sandbox } = await lookToUse(caller, id);
      assertTimed(sandbox);
      await time.give(record, timeoutMs);
    },
    refresh: async (caller, id, timeoutMs) => {
      bounds.checkTimeout(timeoutMs);
      const { record, sandbox } = await lookToUse(caller, id);
      assertTimed(sandbox);
      await time.extend(record, sandbox, timeoutMs);
    },
    updateNetwork: async (caller, id, network) => {
      const { record } = await lookToUse(caller, id);
      await agent.updateNetwork(record.id, network);
      // Egress alone is replaced: who may come in was settled at the creation.
      const { allowPublicTraffic, maskRequestHost } = record.network;
      await store.sandboxes.setNetwork(record.id, { ...network, allowPublicTraffic, maskRequestHost });
    },
    fork: async (caller, id, count, timeoutMs) => {
      bounds.checkTimeout(timeoutMs);
      bounds.checkCopies(count);
      const { record, sandbox } = await lookToUse(caller, id);
      if (sandbox.state !== 'running') throw inTransition(sandbox);
      return await making.copy(caller, { record, sandbox }, count, timeoutMs);
    },
    snapshot: async (caller, id, name) => {
      const { record, sandbox } = await lookToUse(caller, id);
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
