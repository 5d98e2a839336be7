/** All sandboxes of this agent. Whoever wants anything of a sandbox comes through here. */
import { randomBytes } from 'node:crypto';
import { newSandboxId, parseSandboxId, WrennError } from '@wrenn/protocol';
import { withinMs } from '../signals/signals.ts';
import type { Snapshot } from '../storage/snapshots.ts';
import type { Template } from '../storage/storage.ts';
import { createCleanupStack } from './cleanup-stack.ts';
import { followConsole } from './console.ts';
import { createStopwatch, type Start, type Stopwatch } from './create.ts';
import type { SandboxDeps } from './deps.ts';
import { type ExecInput, type ExecOutput, type ExecRequest, exec } from './exec.ts';
import { checkUser, createGuestFiles, type GuestFiles } from './guest.ts';
import { assertRestorable, describeSnapshot } from './hibernation.ts';
import type { JournalRecord } from './journal.ts';
import { recover } from './recover.ts';
import { createRetained } from './retained.ts';
import { createSandbox, type Sandbox, type SandboxView } from './sandbox.ts';
import {
  type CreateRequest,
  checkEnvs,
  checkRequest,
  checkTimeout,
  type SandboxSpec,
  usableMemoryMib,
} from './spec.ts';

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
  /** Those that were asked for, newest first. */
  listSnapshots(): Snapshot[];
  /** Throws `snapshot_not_found`, and `snapshot_in_use` while sandboxes that were created from it are there. */
  deleteSnapshot(id: string): Promise<void>;
  setTimeout(id: string, timeoutMs: number | undefined): Promise<SandboxView>;
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

export interface ForkRequest {
  readonly count: number;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** Of each copy; undefined means never. */
  readonly timeoutMs?: number | undefined;
}

const FORKS_MAX = 64;
const COMMAND_MAX_BYTES = 1024 * 1024;
const TERMINAL_MAX = 0xffff;
const ACCESS_TOKEN_BYTES = 32;

export function createSandboxManager(deps: SandboxDeps): SandboxManager {
  const { config, host, log, observer, network, snapshots } = deps;
  const { limits, timeouts } = config;
  const sandboxes = new Map<string, Sandbox>();
  const live = new Set<string>();
  /** Fork's snapshots whose copies are still to be made. */
  const forking = new Set<string>();
  let closed = false;

  const retained = createRetained(limits.keptFailures, limits.keptFailuresMs, (id) => sandboxes.delete(id));
  const onGone = (id: string): void => {
    live.delete(id);
    retained.forget(id);
    sandboxes.delete(id);
    void collect();
  };
  const onFailed = (id: string): void => {
    live.delete(id);
    retained.add(id);
  };

  const find = (text: string): Sandbox => {
    const id = parseSandboxId(text);
    const sandbox = sandboxes.get(id);
    if (sandbox !== undefined) return sandbox;
    throw new WrennError('sandbox_not_found', `There is no sandbox ${id}.`, {
      hint: '`wrenn sandbox ls` lists those there are.',
      field: 'id',
    });
  };

  const admit = ({ memoryMib }: { readonly memoryMib: number }): void => {
    if (closed) throw new WrennError('agent_not_running', 'The agent is shutting down.');
    if (live.size >= limits.maxSandboxes) {
      throw new WrennError('too_many_sandboxes', `There are ${live.size} sandboxes already.`, {
        hint: 'Destroy some, or raise `limits.maxSandboxes`.',
      });
    }
    let promisedMib = 0;
    for (const id of live) promisedMib += sandboxes.get(id)?.view().memoryMib ?? 0;
    const totalMib = Math.floor(usableMemoryMib(limits, host) * limits.memoryOvercommitRatio);
    if (promisedMib + memoryMib <= totalMib) return;
    throw new WrennError(
      'memory_exhausted',
      `${memoryMib} MiB are more than the ${totalMib - promisedMib} MiB that are not promised to others yet.`,
      {
        hint: 'Destroy sandboxes, ask for less, or raise `limits.memoryOvercommitRatio`.',
        field: 'memory_mib',
      },
    );
  };

  const onHibernated = (id: string): void => {
    live.delete(id);
  };
  const onWaking = (id: string): void => {
    admit(find(id).view());
    live.add(id);
  };
  const events = { onGone, onFailed, onHibernated, onWaking };

  /** From here on the sandbox is in the list. Not one await between the check and the entry. */
  const reserve = (
    spec: SandboxSpec,
    template: Template,
    start: Start,
    timed: Stopwatch,
    id: string,
  ): Sandbox => {
    admit(spec);
    const cleanup = createCleanupStack(timeouts.cleanupStepMs);
    cleanup.register('files', () => deps.journal.remove(id));
    const slotIndex = network.reserve();
    const machine = createCleanupStack(timeouts.cleanupStepMs);
    machine.register('slot', () => network.release(slotIndex));
    const { rootfsPath, guestImagePath, kernelPath, initrdPath } = template;
    const createdAtMs = Date.now();
    const record: JournalRecord = {
      version: 1,
      id,
      bootId: host.bootId,
      state: 'creating',
      template: template.name,
      buildId: template.buildId,
      vcpus: spec.vcpus,
      memoryMib: spec.memoryMib,
      diskMib: spec.diskMib,
      rateLimits: spec.rateLimits,
      envs: { ...identityEnvs(id, template), ...spec.envs },
      metadata: { ...spec.metadata },
      createdAtMs,
      endsAtMs: spec.timeoutMs === undefined ? null : createdAtMs + spec.timeoutMs,
      slotIndex,
      uid: config.uidBase + slotIndex,
      accessToken: randomBytes(ACCESS_TOKEN_BYTES).toString('hex'),
      images: { rootfsPath, guestImagePath, kernelPath, initrdPath },
      snapshotId: start.kind === 'copy' ? start.snapshot.id : null,
      hibernations: 0,
      vmm: null,
      handle: null,
      phases: [],
    };
    const sandbox = createSandbox({ deps, record, journalled: false, cleanup, machine, timed, ...events });
    sandboxes.set(id, sandbox);
    live.add(id);
    return sandbox;
  };

  const create = async (request: CreateRequest): Promise<SandboxView> => {
    const id = newSandboxId();
    const timed = createStopwatch(deps);
    const never = new AbortController().signal;
    const { spec, template, start } = await timed.run('validate', id, never, async () => {
      if (request.snapshotId !== undefined) return fromSnapshot(request, snapshots.get(request.snapshotId));
      const checked = checkRequest(request, config, host);
      const found = await deps.storage.resolveTemplate(checked.template);
      return { spec: checked, template: found, start: { kind: 'boot' } as Start };
    });
    return createFrom(spec, template, start, timed, id);
  };

  const createFrom = async (
    spec: SandboxSpec,
    template: Template,
    start: Start,
    timed: Stopwatch,
    id: string,
  ): Promise<SandboxView> => {
    await timed.begin('reserve', id, new AbortController().signal);
    const sandbox = reserve(spec, template, start, timed, id);
    log.info({ sandboxId: id, template: template.name, start: start.kind }, 'creating');
    await sandbox.create(start);
    observer.created(timed.phases);
    return sandbox.view();
  };

  /** Its size is the snapshot's; everything else may be asked for anew. */
  const fromSnapshot = (
    request: CreateRequest,
    snapshot: Snapshot,
  ): { spec: SandboxSpec; template: Template; start: Start } => {
    assertRestorable(deps, `The snapshot ${snapshot.id}`, snapshot.vmm);
    const { vcpus, memoryMib, diskMib, template } = snapshot;
    // Where its parent was is nothing that a copy inherits.
    const { E2B_SANDBOX: _a, E2B_SANDBOX_ID: _b, E2B_TEMPLATE_ID: _c, ...inherited } = snapshot.envs;
    const envs = { ...inherited, ...request.envs };
    const spec = checkRequest(
      { ...request, template: template.name, vcpus, memoryMib, diskMib, envs },
      config,
      host,
    );
    for (const [field, has] of Object.entries({ vcpus, memoryMib, diskMib, template: template.name })) {
      const wanted = request[field as 'vcpus' | 'memoryMib' | 'diskMib' | 'template'];
      if (wanted === undefined || wanted === '' || wanted === has) continue;
      throw new WrennError('invalid_argument', `The snapshot has ${field} ${has}, which cannot be changed.`, {
        field,
      });
    }
    return { spec, template, start: { kind: 'copy', snapshot } };
  };

  const takeSnapshot = async (id: string, kind: 'user' | 'fork'): Promise<Snapshot> => {
    const sandbox = find(id);
    const draft = await snapshots.draft(newSandboxId());
    try {
      const record = await sandbox.copyTo(draft);
      const { accessToken } = record;
      return await draft.commit(describeSnapshot(deps, record, { kind, accessToken, sandboxId: id }));
    } finally {
      await draft.discard();
    }
  };

  const usersOf = (snapshotId: string): string[] =>
    [...sandboxes.values()]
      .map((sandbox) => sandbox.view())
      .filter((view) => view.snapshotId === snapshotId && view.state !== 'failed')
      .map((view) => view.id);

  /** Snapshots that nobody has asked for go with the last sandbox that was restored from them. */
  const collect = async (): Promise<void> => {
    for (const { id, kind } of snapshots.list()) {
      if (kind !== 'fork' || forking.has(id) || usersOf(id).length > 0) continue;
      await snapshots
        .remove(id)
        .catch((err: unknown) => log.warn({ snapshotId: id, err }, 'a snapshot remains'));
    }
  };

  const fork = async (id: string, { count, metadata, timeoutMs }: ForkRequest): Promise<SandboxView[]> => {
    if (!Number.isInteger(count) || count < 1 || count > FORKS_MAX) {
      throw new WrennError('invalid_argument', `A fork makes 1 to ${FORKS_MAX} copies.`, { field: 'count' });
    }
    const source = find(id).view();
    const snapshot = await takeSnapshot(id, 'fork');
    forking.add(snapshot.id);
    try {
      const request = {
        metadata: metadata ?? source.metadata,
        rateLimits: source.rateLimits,
        timeoutMs,
      };
      const { spec, template, start } = fromSnapshot(request, snapshot);
      const made = await Promise.allSettled(
        Array.from({ length: count }, () =>
          createFrom(spec, template, start, createStopwatch(deps), newSandboxId()),
        ),
      );
      const views = made.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
      const failed = made.find((each) => each.status === 'rejected');
      if (failed === undefined) return views;
      await Promise.allSettled(views.map((view) => find(view.id).destroy()));
      throw failed.reason;
    } finally {
      forking.delete(snapshot.id);
      await collect();
    }
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
      const left = await recover(deps, events, signal);
      for (const sandbox of left) {
        sandboxes.set(sandbox.id, sandbox);
        const { state } = sandbox.view();
        if (state === 'failed') retained.add(sandbox.id);
        else if (state !== 'hibernated') live.add(sandbox.id);
      }
      await collect();
    },
    create: async (request) => {
      try {
        return await create(request);
      } catch (error) {
        const failure = WrennError.from(error);
        observer.createFailed(failure.code);
        log.warn({ err: error, code: failure.code }, 'a sandbox could not be created');
        throw failure;
      }
    },
    get: (id) => find(id).view(),
    list: () =>
      [...sandboxes.values()]
        .map((sandbox) => sandbox.view())
        .sort((a, b) => b.createdAtMs - a.createdAtMs || (a.id < b.id ? -1 : 1)),
    pause: async (id) => {
      const sandbox = find(id);
      await sandbox.pause();
      return sandbox.view();
    },
    resume: async (id) => {
      const sandbox = find(id);
      await sandbox.resume();
      return sandbox.view();
    },
    hibernate: async (id) => {
      const sandbox = find(id);
      await sandbox.hibernate();
      return sandbox.view();
    },
    snapshot: (id) => takeSnapshot(id, 'user'),
    fork,
    listSnapshots: () => snapshots.list().filter(({ kind }) => kind === 'user'),
    deleteSnapshot: async (id) => {
      const { kind } = snapshots.get(id);
      const users = usersOf(id);
      if (kind !== 'user' || users.length > 0) {
        throw new WrennError('snapshot_in_use', `The snapshot ${id} is used by ${users.length} sandboxes.`, {
          hint: 'Destroy what was created from it first.',
        });
      }
      await snapshots.remove(id);
    },
    setTimeout: async (id, timeoutMs) => {
      const sandbox = find(id);
      checkTimeout(timeoutMs, limits.maxTimeoutMs);
      await sandbox.setTimeout(timeoutMs);
      return sandbox.view();
    },
    destroy: async (id) => find(id).destroy(),
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
    liveCount: () => live.size,
    detach: async () => {
      closed = true;
      const leaving = [...sandboxes.values()].map(async (sandbox) => {
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

/** How a program in a sandbox learns where it is; the names are those that E2B's programs look for. */
function identityEnvs(id: string, template: Template): Record<string, string> {
  return { E2B_SANDBOX: 'true', E2B_SANDBOX_ID: id, E2B_TEMPLATE_ID: template.buildId };
}
