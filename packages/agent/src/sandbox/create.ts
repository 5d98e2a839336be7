/** From nothing to a healthy guest, step by step; each registers what takes it away before it acts. */
import { guestCommandLine, WrennError } from '@wrenn/protocol';
import type { EnvdClient } from '../envd-client/client.ts';
import type { NetworkSlot } from '../network/slot.ts';
import { joinSignals, throwIfAborted, withDeadline } from '../signals/signals.ts';
import type { Template } from '../storage/storage.ts';
import type { Microvm, MicrovmHandle, MicrovmSpec } from '../vmm/driver.ts';
import type { CleanupStack } from './cleanup-stack.ts';
import type { CreateStep, SandboxDeps } from './deps.ts';
import type { JournalRecord } from './journal.ts';
import type { Phase } from './log.ts';
import { driveRateLimit, slotRates } from './rate-limits.ts';

export interface CreateContext {
  readonly deps: SandboxDeps;
  readonly template: Template;
  readonly cleanup: CleanupStack;
  readonly timed: Stopwatch;
  /** The journal's present state; `save` makes a newer one of it, durably. */
  readonly record: () => JournalRecord;
  readonly save: (change: Partial<JournalRecord>) => Promise<void>;
  readonly signal: AbortSignal;
}

export interface Created {
  readonly slot: NetworkSlot;
  readonly microvm: Microvm;
  readonly guest: EnvdClient;
}

/** The guest's default user, and where a process without a directory starts; as E2B's SDKs expect them. */
const DEFAULT_USER = 'user';
const DEFAULT_WORKDIR = '/home/user';

export async function createSteps(context: CreateContext): Promise<Created> {
  const { deps, cleanup, record, save, signal, timed } = context;
  const { id, uid, slotIndex } = record();
  const owner = { uid, gid: uid };
  const files = deps.journal.files(id);

  await timed.end('reserve', id, signal);
  await timed.run('journal', id, signal, async () => {
    await deps.journal.makeDirectories(id, uid);
    await save({});
  });

  await timed.run('layer', id, signal, () =>
    deps.storage.createLayer(files.layer, record().diskMib, owner, signal),
  );

  const slotSpec = { ...owner, rates: slotRates(record().rateLimits) };
  const slot = await timed.run('network', id, signal, () => deps.network.setUp(slotIndex, slotSpec, signal));

  const guest = deps.connectGuest(slot.address, record().accessToken);
  cleanup.register('guest connections', async () => guest.close());

  const microvm = await boot(context, slot, guest);

  const died = new AbortController();
  void microvm.exited.then(({ message }) => died.abort(new WrennError('vmm_died', message)));
  const alive = joinSignals(signal, died.signal);
  try {
    await timed.run('init', id, alive.signal, () => initGuest(guest, record().envs, alive.signal));
  } finally {
    alive.release();
  }
  return { slot, microvm, guest };
}

/** Hands the guest its token, environment and the time; again after every pause and adoption. */
export function initGuest(
  guest: EnvdClient,
  envs: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<void> {
  return guest.init({ envs, defaultUser: DEFAULT_USER, defaultWorkdir: DEFAULT_WORKDIR }, signal);
}

async function boot(context: CreateContext, slot: NetworkSlot, guest: EnvdClient): Promise<Microvm> {
  const { deps, cleanup, record, save, signal, timed } = context;
  const { id, uid, memoryMib, vcpus } = record();
  cleanup.register('cgroup', () => removeCgroup(deps, id));
  let microvm: Microvm | undefined;
  cleanup.register('microVM', async () => {
    if (microvm !== undefined) await microvm.kill();
    const { cleanupStepMs } = deps.config.timeouts;
    await withDeadline('Ending the microVM', cleanupStepMs, undefined, (limited) =>
      deps.killStrays(id, uid, processesOf(record().handle), limited),
    );
  });

  await timed.begin('launch', id, signal);
  await deps.cgroups.prepare(id, { memoryMib, vcpus });
  let launched = false;
  microvm = await deps.bootMicrovm(deps.driver, microvmSpec(context, slot), {
    signal,
    onSpawned: async (handle) => {
      await save({ handle });
      // Before the guest runs; what the VMM has used by now stays the agent's.
      await deps.cgroups.enter(id, processesOf(handle));
    },
    waitUntilUp: async (attemptSignal) => {
      if (!launched) {
        launched = true;
        await timed.end('launch', id, attemptSignal);
        await timed.begin('boot', id, attemptSignal);
      }
      await guest.waitUntilHealthy(deps.config.timeouts.bootMs, attemptSignal);
    },
    onAttemptFailed: (attempt, diagnosis, err) => {
      deps.log.warn({ sandboxId: id, attempt, diagnosis, err }, 'a microVM did not come up');
    },
  });
  await timed.end('boot', id, signal);
  return microvm;
}

function microvmSpec(context: CreateContext, slot: NetworkSlot): MicrovmSpec {
  const { deps, template, record } = context;
  const { id, uid, vcpus, memoryMib, rateLimits } = record();
  const files = deps.journal.files(id);
  const image = { readOnly: true, rateLimit: driveRateLimit(rateLimits, 'image') };
  const layer = { readOnly: false, rateLimit: driveRateLimit(rateLimits, 'layer') };
  return {
    id,
    vcpus,
    memoryMib,
    kernelPath: template.kernelPath,
    initrdPath: template.initrdPath,
    commandLine: guestCommandLine({ hostname: id, nameservers: deps.nameservers }),
    // In the order of DRIVE_ORDER, which the guest's init relies on.
    drives: [
      { id: 'base', path: template.rootfsPath, ...image },
      { id: 'guest', path: template.guestImagePath, ...image },
      { id: 'layer', path: files.layer, ...layer },
    ],
    network: { netns: slot.netns, tap: slot.tap, guestMac: slot.guestMac },
    runDir: files.runDir,
    uid,
    gid: uid,
  };
}

/** To be called when nothing runs in it any more; the last threads may still be on their way out. */
export function removeCgroup({ cgroups, config }: SandboxDeps, id: string): Promise<void> {
  const { cleanupStepMs } = config.timeouts;
  return withDeadline('Removing the cgroup', cleanupStepMs, undefined, (limited) =>
    cgroups.remove(id, limited),
  );
}

/** The VMM and all that stands between it and the agent. */
export function processesOf(handle: MicrovmHandle | null): { pid: number; startTime: string }[] {
  if (handle === null) return [];
  return [handle, ...handle.wrappers].map(({ pid, startTime }) => ({ pid, startTime }));
}

/** Measures the steps and calls the checkpoint around them. */
export interface Stopwatch {
  readonly phases: Phase[];
  run<T>(step: CreateStep, id: string, signal: AbortSignal, work: () => Promise<T>): Promise<T>;
  begin(step: CreateStep, id: string, signal: AbortSignal): Promise<void>;
  end(step: CreateStep, id: string, signal: AbortSignal): Promise<void>;
}

export function createStopwatch(deps: SandboxDeps): Stopwatch {
  const phases: Phase[] = [];
  const begun = new Map<CreateStep, number>();
  const begin: Stopwatch['begin'] = async (step, id, signal) => {
    throwIfAborted(signal);
    await deps.checkpoint?.(step, 'before', id);
    begun.set(step, performance.now());
  };
  const end: Stopwatch['end'] = async (step, id, signal) => {
    const durationMs = performance.now() - (begun.get(step) ?? performance.now());
    phases.push({ name: step, durationMs: Math.round(durationMs * 1000) / 1000 });
    await deps.checkpoint?.(step, 'after', id);
    throwIfAborted(signal);
  };
  return {
    phases,
    begin,
    end,
    run: async (step, id, signal, work) => {
      await begin(step, id, signal);
      const result = await work();
      await end(step, id, signal);
      return result;
    },
  };
}
