/** All that is new is made here, from a template, a snapshot or another sandbox. */
import { randomBytes } from 'node:crypto';
import { WrennError } from '@wrenn/protocol';
import type { Agent, AgentAccess, AgentSandbox } from '../agent-client/index.ts';
import type { Store } from '../store/index.ts';
import type { NetworkSettings, NewSandboxRecord, SandboxRecord } from '../store/sandboxes.ts';
import { checkSize } from './bounds.ts';
import type { Caller } from './caller.ts';
import type { Creations } from './creations.ts';
import type { Places } from './places.ts';
import type { Origin, Templates } from './templates.ts';
import { type AccessibleSandbox, stateOf } from './view.ts';
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

export interface Making {
  create(caller: Caller, request: CreateRequest): Promise<AccessibleSandbox>;
  /** Of one that runs. */
  copy(
    caller: Caller,
    parent: { readonly record: SandboxRecord; readonly sandbox: AgentSandbox },
    count: number,
    timeoutMs: number,
  ): Promise<readonly AccessibleSandbox[]>;
}

export interface MakingDeps {
  readonly agent: Agent;
  readonly store: Store;
  readonly places: Places;
  readonly creations: Creations;
  readonly watcher: Watcher;
  readonly templates: Templates;
}

const TRAFFIC_TOKEN_BYTES = 24;
/** One that is to end at once is there until whoever asked for it can have been told of it. */
const FIRST_TIMEOUT_MIN_MS = 1000;

/** What the agent has made, before anybody knows. */
interface Born {
  readonly sandboxes: readonly {
    readonly sandbox: AgentSandbox;
    readonly record: NewSandboxRecord;
    /** Where the agent has said it already. */
    readonly access?: AgentAccess | undefined;
  }[];
  /** What its use is counted under. */
  readonly template?: string | undefined;
}

interface Made {
  readonly record: NewSandboxRecord;
  readonly sandbox: AgentSandbox;
  readonly access: Promise<AgentAccess>;
}

export function createMaking({ agent, store, places, creations, watcher, templates }: MakingDeps): Making {
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

  /** Within the key's limits, and kept before anybody is told of it. */
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
        // Where it is to be asked how to reach them, that is done while they are being kept.
        made = sandboxes.map(({ access, ...one }) => ({
          ...one,
          access: access === undefined ? agent.access(one.sandbox.id) : Promise.resolve(access),
        }));
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
        async ({ id, from, template, vcpus, memoryMib }, marks) => {
          // What was checked is what is made, whatever the agent's defaults are by now.
          const size = { vcpus: request.vcpus ?? vcpus, memoryMib: request.memoryMib ?? memoryMib };
          const { sandbox, access } = await agent.create({
            ...settings,
            ...('snapshotId' in from ? {} : size),
            from,
            metadata: { ...request.metadata, ...marks },
            timeoutMs: Math.max(FIRST_TIMEOUT_MIN_MS, request.timeoutMs),
            onTimeout: request.autoPause ? 'hibernate' : 'destroy',
          });
          const record = toRecord(caller, sandbox, { ...request, template: id });
          return { template, sandboxes: [{ sandbox, access, record }] };
        },
      );
      if (one === undefined) throw new WrennError('internal', 'A creation ended without a sandbox.');
      return one;
    },
    copy: async (caller, { record, sandbox }, count, timeoutMs) => {
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
