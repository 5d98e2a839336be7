/** All sandboxes of this agent. Whoever wants anything of a sandbox comes through here. */
import { newSandboxId, WrennError } from '@wrenn/protocol';
import { withinMs } from '../signals/signals.ts';
import type { Snapshot } from '../storage/snapshots.ts';
import type { TemplateSummary } from '../storage/storage.ts';
import { followConsole } from './console.ts';
import { createCopies, type ForkRequest } from './copies.ts';
import { createStopwatch, type Start } from './create.ts';
import type { SandboxDeps } from './deps.ts';
import { checkEgress, type EgressPolicy } from './egress.ts';
import { type ExecInput, type ExecOutput, type ExecRequest, exec } from './exec.ts';
import { checkUser, createGuestFiles, type GuestFiles } from './guest.ts';
import { createPool } from './pool.ts';
import { recover } from './recover.ts';
import { createRoster, type Order, orderOf, type Roster } from './roster.ts';
import type { Sandbox, SandboxAccess } from './sandbox-parts.ts';
import { createSecondLook } from './second-look.ts';
import { type CreateRequest, checkEnvs, checkRequest, checkTimeout } from './spec.ts';
import { createTemplateUsers } from './template-users.ts';
import { isTemplatesFault } from './trials.ts';
import type { SandboxView } from './view.ts';
import { createWarmTemplates } from './warm.ts';

/** With what a sandbox of it gets that asks for nothing else. */
export interface TemplateView extends TemplateSummary {
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
}

export interface SandboxManager {
  /**
   * Finds again what an earlier agent has left, and prepares the network. To be called once, before the rest.
   */
  start(signal: AbortSignal): Promise<void>;
  /** Settles when the guest agent has answered. Goes on when nobody waits for it: it stays in the list. */
  create(request: CreateRequest): Promise<SandboxView>;
  /** Throws `sandbox_not_found`, as everything that takes an id does. */
  get(id: string): SandboxView;
  /** Newest first. */
  list(): SandboxView[];
  pause(id: string): Promise<SandboxView>;
  /** Continues a paused one, and wakes one that hibernates. */
  resume(id: string): Promise<SandboxView>;
  /** To its files; nothing else of it is left on the host until it is resumed. */
  hibernate(id: string): Promise<SandboxView>;
  /** A copy on the disk as it stands now, to create others from; it goes on. */
  snapshot(id: string): Promise<Snapshot>;
  /** So many copies of it, each a sandbox that goes on by itself. On failure there is none. */
  fork(id: string, request: ForkRequest): Promise<SandboxView[]>;
  /** Makes the snapshot that sandboxes of a template and size start from, unless it is there. */
  warmTemplate(request: CreateRequest): Promise<Snapshot>;
  listTemplates(): Promise<TemplateView[]>;
  /** Throws `template_not_found`, `template_in_use`, `not_permitted`. */
  deleteTemplate(name: string): Promise<void>;
  /** Those that were asked for, newest first. */
  listSnapshots(): Snapshot[];
  /** Throws `snapshot_not_found`, and `snapshot_in_use` while sandboxes that were created from it are there. */
  deleteSnapshot(id: string): Promise<void>;
  setTimeout(id: string, timeoutMs: number | undefined): Promise<SandboxView>;
  /** Replaces what it may reach. */
  setEgress(id: string, egress: EgressPolicy): Promise<SandboxView>;
  /** What speaks to its guest directly. */
  access(id: string): SandboxAccess;
  /** Settles when nothing of it is left. */
  destroy(id: string): Promise<void>;
  /** See exec.ts. `signal` is the caller's: when it aborts, the command is killed. */
  exec(
    id: string,
    request: ExecRequest,
    signal: AbortSignal,
    inputs?: AsyncIterable<ExecInput>,
  ): AsyncGenerator<ExecOutput, void, undefined>;
  files(id: string): GuestFiles;
  /** The console so far, and with `follow` what comes until the sandbox ends. */
  logs(id: string, follow: boolean, signal: AbortSignal): AsyncGenerator<string, void, undefined>;
  /** How many hold anything of the host's; those kept for their reason do not count. */
  liveCount(): number;
  /** Lets go of every sandbox and leaves the microVMs running. Nothing may be asked afterwards. */
  detach(): Promise<void>;
}

const COMMAND_MAX_BYTES = 1024 * 1024;
const TERMINAL_MAX = 0xffff;

/** What there may be too little of. */
const ROOM: ReadonlySet<string> = new Set([
  'memory_exhausted',
  'too_many_sandboxes',
  'network_slots_exhausted',
]);

export function createSandboxManager(deps: SandboxDeps): SandboxManager {
  const { config, host, log, observer, snapshots } = deps;
  const { limits, timeouts } = config;
  let creating = 0;
  const roster = createRoster(deps, () => void copies.collect());
  const warm = createWarmTemplates(
    deps,
    roster,
    () => copies,
    () => creating > 0,
  );
  const makeWithRoom: Roster['make'] = (order) => makeRoom(() => roster.make(order));
  const copies = createCopies(deps, { ...roster, make: makeWithRoom }, warm.isWanted);
  const templates = createTemplateUsers(deps, roster);
  const secondLook = createSecondLook(deps, roster);
  const pool = createPool(deps, roster, warm, () => creating > 0);
  const { find } = roster;

  const create = async (request: CreateRequest): Promise<SandboxView> => {
    let release = (): void => {};
    try {
      return await createFrom(request, (template) => {
        release = templates.use(template);
      });
    } finally {
      release();
    }
  };

  /** `use` is called with the template's name before anything is made of it. */
  const createFrom = async (
    request: CreateRequest,
    use: (template: string) => void,
  ): Promise<SandboxView> => {
    const id = newSandboxId();
    const timed = createStopwatch(deps);
    const plan = await timed.run('validate', id, new AbortController().signal, async () => {
      if (request.snapshotId !== undefined) {
        const copy = copies.plan(request, request.snapshotId);
        use(copy.template.name);
        return copy;
      }
      const spec = checkRequest(request, config, host);
      const template = await deps.storage.resolveTemplate(spec.template);
      use(template.name);
      const snapshot = warm.find(template, spec);
      const start: Start =
        snapshot === undefined
          ? { kind: 'boot' }
          : { kind: 'copy', snapshot, onRefused: () => warm.suspect(snapshot) };
      return { spec, template, start };
    });
    const order = orderOf(deps, { ...plan, id, timed });
    const sandbox =
      (request.snapshotId === undefined ? await fromPool(order) : undefined) ??
      (await makeWithRoom(order).catch((error) => bootInstead(order, request, error)));
    observer.created(sandbox.view().phases);
    if (plan.start.kind === 'boot') warm.makeLater(plan.template, plan.spec);
    return sandbox.view();
  };

  /** Undefined where the pool has none that fits, or had one that is of no use. */
  const fromPool = async ({ spec, template, timed }: Order): Promise<Sandbox | undefined> => {
    const sandbox = pool.take(template, spec);
    if (sandbox === undefined) return undefined;
    const { envs, metadata, timeoutMs, onTimeout, egress } = spec;
    const createdAtMs = Date.now();
    const endsAtMs = timeoutMs === undefined ? undefined : createdAtMs + timeoutMs;
    try {
      const wishes = { envs, metadata, createdAtMs, endsAtMs, onTimeout, egress };
      await sandbox.claim({ ...wishes, phases: timed.phases });
      return sandbox;
    } catch (err) {
      log.warn({ sandboxId: sandbox.id, err }, 'a sandbox of the pool was of no use');
      await sandbox.destroy().catch(() => {});
      return undefined;
    }
  };

  /** What the pool keeps ready gives way to what is asked for. */
  const makeRoom = async <T>(work: () => Promise<T>): Promise<T> => {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        const full = error instanceof WrennError && ROOM.has(error.code);
        if (!full || !(await pool.giveUp())) throw error;
      }
    }
  };

  /** A warm template is there to be quick: where it fails, a boot does. A snapshot that was asked for is what it is. */
  const bootInstead = (order: Order, request: CreateRequest, error: unknown): Promise<Sandbox> => {
    const { start } = order;
    if (start.kind !== 'copy' || request.snapshotId !== undefined) throw error;
    if (!isTemplatesFault(error)) throw error;
    log.warn({ sandboxId: order.id, err: error }, 'a warm template failed; booting instead');
    warm.distrust(start.snapshot);
    const { spec, template } = order;
    return makeWithRoom(orderOf(deps, { spec, template, start: { kind: 'boot' } }));
  };

  const checkExec = ({ command, envs, user, cwd, terminal, timeoutMs }: ExecRequest): void => {
    if ((command[0] ?? '') === '') {
      throw new WrennError('invalid_argument', 'No command was given.', { field: 'command' });
    }
    const words = cwd === undefined ? command : [...command, cwd];
    if (words.some((word) => word.includes('\0'))) {
      throw new WrennError('invalid_argument', 'A command has a NUL byte.', { field: 'command' });
    }
    if (words.reduce((sum, word) => sum + Buffer.byteLength(word) + 1, 0) > COMMAND_MAX_BYTES) {
      throw new WrennError('invalid_argument', `A command has at most ${COMMAND_MAX_BYTES} bytes.`, {
        field: 'command',
      });
    }
    checkEnvs('envs', envs, limits.maxEnvEntries, limits.maxEnvBytes);
    checkUser(user);
    checkTimeout(timeoutMs, limits.maxTimeoutMs);
    if (terminal === undefined) return;
    if ([terminal.cols, terminal.rows].every((n) => Number.isInteger(n) && n >= 0 && n <= TERMINAL_MAX))
      return;
    throw new WrennError('invalid_argument', "That is no terminal's size.", { field: 'terminal' });
  };

  return {
    start: async (signal) => {
      await snapshots.load((id, err) => log.error({ snapshotId: id, err }, 'a snapshot cannot be used'));
      await recover(deps, roster, signal);
      await copies.collect();
      pool.start();
      secondLook.start();
    },
    create: async (request) => {
      creating++;
      try {
        return await create(request);
      } catch (error) {
        const failure = WrennError.from(error);
        observer.createFailed(failure.code);
        log.warn({ err: error, code: failure.code }, 'a sandbox could not be created');
        throw failure;
      } finally {
        creating--;
      }
    },
    get: (id) => find(id).view(),
    list: () =>
      roster
        .all()
        .map((sandbox) => sandbox.view())
        .filter(({ isOwn }) => !isOwn),
    pause: async (id) => {
      const sandbox = find(id);
      await sandbox.pause();
      return sandbox.view();
    },
    resume: async (id) => {
      const sandbox = find(id);
      await makeRoom(() => sandbox.resume());
      return sandbox.view();
    },
    hibernate: async (id) => {
      const sandbox = find(id);
      await sandbox.hibernate();
      return sandbox.view();
    },
    snapshot: (id) => copies.take(find(id), 'user'),
    fork: async (id, request) => (await copies.fork(find(id), request)).map((copy) => copy.view()),
    listTemplates: async () => {
      const { vcpus, memoryMib, diskMib } = config.defaults;
      const templates = await deps.storage.listTemplates();
      return templates.map((template) => ({ ...template, vcpus, memoryMib, diskMib }));
    },
    deleteTemplate: async (name) => {
      await templates.remove(name);
      log.info({ template: name }, 'a template was deleted');
    },
    listSnapshots: copies.list,
    deleteSnapshot: copies.delete,
    warmTemplate: async (request) => {
      const spec = checkRequest(request, config, host);
      const template = await deps.storage.resolveTemplate(spec.template);
      const release = templates.use(template.name);
      try {
        return await warm.make(template, spec);
      } finally {
        release();
      }
    },
    setTimeout: async (id, timeoutMs) => {
      const sandbox = find(id);
      checkTimeout(timeoutMs, limits.maxTimeoutMs);
      await sandbox.setTimeout(timeoutMs);
      return sandbox.view();
    },
    setEgress: async (id, egress) => {
      const sandbox = find(id);
      await sandbox.setEgress(checkEgress(egress));
      return sandbox.view();
    },
    access: (id) => find(id).access(),
    destroy: async (id) => {
      await find(id).destroy();
      // With the last of its copies, a fork's memory goes.
      await copies.collect();
    },
    exec: async function* (id, request, signal, inputs) {
      const sandbox = find(id);
      checkExec(request);
      observer.execStarted();
      yield* exec(sandbox.use(), request, timeouts, signal, inputs);
    },
    files: (id) => {
      const sandbox = find(id);
      return createGuestFiles(() => sandbox.use(), timeouts);
    },
    logs: (id, follow, signal) => followConsole(find(id), follow, signal),
    liveCount: roster.liveCount,
    detach: async () => {
      roster.close();
      warm.stop();
      pool.stop();
      secondLook.stop();
      const leaving = roster.all().map(async (sandbox) => {
        try {
          await withinMs(timeouts.shutdownMs, 'Letting go', sandbox.detach());
        } catch (err) {
          log.warn({ sandboxId: sandbox.id, err }, 'a sandbox is left to the next agent');
        }
      });
      await Promise.all(leaving);
    },
  };
}
