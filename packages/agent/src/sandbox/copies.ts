/** Snapshots of sandboxes, what is created from them, and when they go. */
import { newSandboxId, WrennError } from '@wrenn/protocol';
import type { Snapshot } from '../storage/snapshots.ts';
import type { Template } from '../storage/storage.ts';
import type { Start } from './create.ts';
import type { SandboxDeps } from './deps.ts';
import { assertRestorable, describeSnapshot, toldIfFull } from './hibernation.ts';
import { orderOf, type Roster, withoutIdentity } from './roster.ts';
import type { Sandbox } from './sandbox-parts.ts';
import { type CreateRequest, checkRequest, type SandboxSpec } from './spec.ts';
import { isInUse } from './view.ts';

export interface ForkRequest {
  readonly count: number;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** Of each copy; undefined means never. */
  readonly timeoutMs?: number | undefined;
}

export interface Plan {
  readonly spec: SandboxSpec;
  readonly template: Template;
  readonly start: Start;
}

export interface Copies {
  /** What a request for a copy comes to. Throws `snapshot_not_found`, `snapshot_incompatible`, `invalid_argument`. */
  plan(request: CreateRequest, snapshotId: string): Plan;
  take(sandbox: Sandbox, kind: Snapshot['kind']): Promise<Snapshot>;
  /** All of them or none. */
  fork(sandbox: Sandbox, request: ForkRequest): Promise<Sandbox[]>;
  /** Those that were asked for, newest first. */
  list(): Snapshot[];
  /** Throws `snapshot_in_use`. */
  delete(id: string): Promise<void>;
  /** Removes what nobody has asked for and nobody uses any more; settles when it is gone. Never rejects. */
  collect(): Promise<void>;
}

const FORKS_MAX = 64;

/** `isWanted` tells which of the agent's own are still of use. */
export function createCopies(
  deps: SandboxDeps,
  roster: Roster,
  isWanted: (snapshot: Snapshot) => boolean,
): Copies {
  const { config, host, log, snapshots } = deps;
  /** A fork's, whose copies are still to be made. */
  const forking = new Set<string>();

  const usersOf = (snapshotId: string): number =>
    roster
      .all()
      .map((sandbox) => sandbox.view())
      .filter((view) => view.snapshotId === snapshotId && isInUse(view)).length;

  const planFrom = (request: CreateRequest, snapshot: Snapshot): Plan => {
    assertRestorable(deps, `The snapshot ${snapshot.id}`, snapshot.vmm);
    const { vcpus, memoryMib, diskMib, template } = snapshot;
    const size = { vcpus, memoryMib, diskMib, template: template.name };
    for (const field of ['vcpus', 'memoryMib', 'diskMib', 'template'] as const) {
      const wanted = request[field];
      if (wanted === undefined || wanted === '' || wanted === size[field]) continue;
      const has = `The snapshot has ${field} ${size[field]}, which cannot be changed.`;
      throw new WrennError('invalid_argument', has, { field });
    }
    const envs = { ...withoutIdentity(snapshot.envs), ...request.envs };
    const spec = checkRequest({ ...request, ...size, envs }, config, host);
    return { spec, template, start: { kind: 'copy', snapshot } };
  };

  const take = async (sandbox: Sandbox, kind: Snapshot['kind'], id = newSandboxId()): Promise<Snapshot> => {
    const draft = await snapshots.draft(id).catch((error: unknown) => {
      throw toldIfFull(error);
    });
    try {
      const record = await sandbox.copyTo(draft);
      const snapshot = await draft.commit(describeSnapshot(deps, record, kind));
      log.info({ sandboxId: sandbox.id, snapshotId: snapshot.id, kind }, 'copied');
      return snapshot;
    } catch (error) {
      throw toldIfFull(error);
    } finally {
      await draft.discard();
    }
  };

  /** Out of the list already, whoever's end it was that found it of no use. */
  const removing = new Set<Promise<void>>();
  const remove = async (snapshot: Snapshot): Promise<void> => {
    try {
      await snapshots.remove(snapshot.id);
      deps.driver.forget?.(snapshot);
    } catch (err) {
      log.warn({ snapshotId: snapshot.id, err }, 'a snapshot remains');
    }
  };
  const collect = async (): Promise<void> => {
    for (const snapshot of snapshots.list()) {
      const { id, kind } = snapshot;
      if (kind === 'user' || forking.has(id) || usersOf(id) > 0 || isWanted(snapshot)) continue;
      const removal = remove(snapshot).finally(() => removing.delete(removal));
      removing.add(removal);
    }
    await Promise.all(removing);
  };

  return {
    plan: (request, snapshotId) => planFrom(request, snapshots.get(snapshotId)),
    take,
    fork: async (sandbox, { count, metadata, timeoutMs }) => {
      if (!Number.isInteger(count) || count < 1 || count > FORKS_MAX) {
        throw new WrennError('invalid_argument', `A fork makes 1 to ${FORKS_MAX} copies.`, {
          field: 'count',
        });
      }
      const source = sandbox.view();
      const { rateLimits, onTimeout, egress } = source;
      const wishes = { metadata: metadata ?? source.metadata, timeoutMs, rateLimits, onTimeout, egress };
      // Before the sandbox stands still for it.
      const { vcpus, memoryMib, diskMib, template } = source;
      checkRequest({ ...wishes, vcpus, memoryMib, diskMib, template }, config, host);
      // Before it is there for `collect` to see, whoever's end calls that.
      const snapshotId = newSandboxId();
      forking.add(snapshotId);
      try {
        const snapshot = await take(sandbox, 'fork', snapshotId);
        const plan = planFrom(wishes, snapshot);
        const made = await Promise.allSettled(
          Array.from({ length: count }, () => roster.make(orderOf(deps, plan))),
        );
        const copies = made.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
        const failed = made.find((each) => each.status === 'rejected');
        if (failed === undefined) return copies;
        await Promise.allSettled(copies.map((copy) => copy.destroy()));
        throw failed.reason;
      } finally {
        forking.delete(snapshotId);
        await collect();
      }
    },
    list: () => snapshots.list().filter(({ kind }) => kind === 'user'),
    delete: async (id) => {
      const snapshot = snapshots.get(id);
      const users = usersOf(id);
      if (snapshot.kind !== 'user' || users > 0) {
        throw new WrennError('snapshot_in_use', `The snapshot ${id} is used by ${users} sandboxes.`, {
          hint: 'Destroy what was created from it first.',
        });
      }
      await snapshots.remove(id);
      deps.driver.forget?.(snapshot);
    },
    collect,
  };
}
