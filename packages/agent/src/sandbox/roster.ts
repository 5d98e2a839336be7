/**
 * All sandboxes of this agent, by id: who is there, who holds what of the host's, whether one more may be, and how
 * one is made. What is done with them is others' business.
 */

import { randomBytes } from 'node:crypto';
import { newSandboxId, parseSandboxId, WrennError } from '@wrenn/protocol';
import type { Template } from '../storage/storage.ts';
import { createCleanupStack } from './cleanup-stack.ts';
import { type CreateContext, createStopwatch, type Start, type Stopwatch } from './create.ts';
import type { SandboxDeps } from './deps.ts';
import { copyOf } from './egress.ts';
import type { JournalRecord } from './journal-record.ts';
import { createRetained } from './retained.ts';
import { createSandbox } from './sandbox.ts';
import type { Sandbox, SandboxParts } from './sandbox-parts.ts';
import { type SandboxSpec, usableMemoryMib } from './spec.ts';
import type { SandboxView } from './view.ts';

/** What is to be made. */
export interface Order {
  readonly id: string;
  readonly spec: SandboxSpec;
  readonly template: Template;
  readonly start: Start;
  /** `own`: for the agent itself, in no list until somebody claims it; gone when the agent is. */
  readonly purpose: JournalRecord['purpose'];
  readonly timed: Stopwatch;
  readonly onThaw?: NonNullable<CreateContext['onThaw']>;
}

export interface Roster {
  readonly events: Pick<SandboxParts, 'onGone' | 'onFailed' | 'onHibernated' | 'onWaking'>;
  /** One that an earlier agent has left; `isLive` where it may hold more than files. */
  adopt(sandbox: Sandbox, isLive: boolean): void;
  /** Throws `sandbox_not_found`. */
  find(id: string): Sandbox;
  /** Newest first; with those that are the agent's own. */
  all(): Sandbox[];
  /** How many hold anything of the host's; those kept for their reason do not count. */
  liveCount(): number;
  /** From here on it is in the list, and to be created. Throws if there is no room for it. */
  reserve(order: Order): Sandbox;
  /** Settles when the guest has answered. */
  make(order: Order): Promise<Sandbox>;
  /** Nothing may be reserved any more. */
  close(): void;
}

/** A new sandbox's order, with what is always so filled in. */
export function orderOf(
  deps: SandboxDeps,
  order: Pick<Order, 'spec' | 'template' | 'start'> & Partial<Order>,
): Order {
  return { id: newSandboxId(), purpose: 'user', timed: createStopwatch(deps), ...order };
}

const ACCESS_TOKEN_BYTES = 32;

export function createRoster(deps: SandboxDeps, onChange: () => void): Roster {
  const { config, host, log, network } = deps;
  const { limits, timeouts } = config;
  const sandboxes = new Map<string, Sandbox>();
  const live = new Set<string>();
  let closed = false;

  const retained = createRetained(limits.keptFailures, limits.keptFailuresMs, (id) => sandboxes.delete(id));
  const onGone = (id: string): void => {
    live.delete(id);
    retained.forget(id);
    sandboxes.delete(id);
    onChange();
  };
  const onFailed = (id: string): void => {
    live.delete(id);
    retained.add(id);
    onChange();
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
    onChange();
  };
  const onWaking = (id: string): void => {
    admit(find(id).view());
    live.add(id);
  };
  const events = { onGone, onFailed, onHibernated, onWaking };

  /** Not one await between the check and the entry. */
  const reserve = ({ id, spec, template, start, purpose, timed }: Order): Sandbox => {
    admit(spec);
    const cleanup = createCleanupStack(timeouts.cleanupStepMs);
    cleanup.register('files', () => deps.journal.remove(id));
    const slotIndex = network.reserve();
    const machine = createCleanupStack(timeouts.cleanupStepMs);
    // While a VMM may be left, nobody else may have its user and its network.
    machine.register('slot', () => network.release(slotIndex), { onlyAfterTheRest: true });
    const { rootfsPath, guestImagePath, kernelPath, initrdPath } = template;
    const createdAtMs = Date.now();
    const record: JournalRecord = {
      version: 1,
      id,
      purpose,
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
      onTimeout: spec.onTimeout,
      egress: copyOf(spec.egress),
      slotIndex,
      uid: config.uidBase + slotIndex,
      accessToken: randomBytes(ACCESS_TOKEN_BYTES).toString('hex'),
      images: { rootfsPath, guestImagePath, kernelPath, initrdPath },
      snapshotId: start.kind === 'copy' ? start.snapshot.id : null,
      hibernations: 0,
      hibernation: null,
      vmm: null,
      handle: null,
      phases: [],
    };
    const sandbox = createSandbox({ deps, record, journalled: false, cleanup, machine, timed, ...events });
    sandboxes.set(id, sandbox);
    live.add(id);
    return sandbox;
  };

  return {
    events,
    adopt: (sandbox, isLive) => {
      sandboxes.set(sandbox.id, sandbox);
      if (isLive) live.add(sandbox.id);
    },
    find,
    all: () => [...sandboxes.values()].sort((a, b) => compare(a.view(), b.view())),
    liveCount: () => live.size,
    reserve,
    make: async (order) => {
      const { id, timed, template, start, onThaw } = order;
      await timed.begin('reserve', id, new AbortController().signal);
      const sandbox = reserve(order);
      log.info({ sandboxId: id, template: template.name, start: start.kind }, 'creating');
      await sandbox.create(start, onThaw);
      return sandbox;
    },
    close: () => {
      closed = true;
    },
  };
}

function compare(a: SandboxView, b: SandboxView): number {
  return b.createdAtMs - a.createdAtMs || (a.id < b.id ? -1 : 1);
}

/** How a program in a sandbox learns where it is; the names are those that E2B's programs look for. */
export function identityEnvs(id: string, template: Template): Record<string, string> {
  return { E2B_SANDBOX: 'true', E2B_SANDBOX_ID: id, E2B_TEMPLATE_ID: template.name };
}

/** The environment that a copy inherits: where its parent was is no part of it. */
export function withoutIdentity(envs: Readonly<Record<string, string>>): Record<string, string> {
  const { E2B_SANDBOX: _sandbox, E2B_SANDBOX_ID: _id, E2B_TEMPLATE_ID: _template, ...inherited } = envs;
  return inherited;
}
