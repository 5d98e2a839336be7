/**
 * From nothing to a guest that answers, step by step; each registers what takes it away before it acts. A sandbox
 * boots, goes on as a copy from where a snapshot was taken, or goes on where it has hibernated itself.
 */

import { randomBytes } from 'node:crypto';
import type { ProcessIdentity } from '@wrenn/host';
import { guestCommandLine, WrennError } from '@wrenn/protocol';
import type { EnvdClient, GuestInit } from '../envd-client/client.ts';
import type { NetworkSlot } from '../network/slot.ts';
import { joinSignals, throwIfAborted, withDeadline } from '../signals/signals.ts';
import type { Snapshot } from '../storage/snapshots.ts';
import type { Microvm, MicrovmHandle, MicrovmSpec, RestoreSpec } from '../vmm/driver.ts';
import type { CleanupStack } from './cleanup-stack.ts';
import { CREATE_STEPS, type CreateStep, type SandboxDeps, type Suspect } from './deps.ts';
import { slotEgress } from './egress.ts';
import type { Outlives } from './journal.ts';
import type { JournalRecord } from './journal-record.ts';
import type { Phase } from './log.ts';
import { memoryHashOf, sleepingMemory } from './memory.ts';
import { driveRateLimit, slotRates } from './rate-limits.ts';

export type Start =
  | { readonly kind: 'boot' }
  | {
      readonly kind: 'copy';
      readonly snapshot: Snapshot;
      /** As `Created.refused`. */
      readonly onRefused?: () => void;
    }
  /** From its own files, those of its last hibernation. */
  | { readonly kind: 'wake' };

export interface CreateContext {
  readonly deps: SandboxDeps;
  readonly start: Start;
  /** For what runs: all but the sandbox's files. */
  readonly cleanup: CleanupStack;
  readonly timed: Stopwatch;
  /** The journal's present state; `save` makes a newer one of it. */
  readonly record: () => JournalRecord;
  readonly save: (change: Partial<JournalRecord>, outlives?: Outlives) => Promise<void>;
  /** For a guest that stood still until now: called when it is about to go on, and never has to be undone. */
  readonly onThaw?: () => Promise<void>;
  /** Called while the guest takes its settings, for what can be done meanwhile. */
  readonly onSettling?: () => Promise<void>;
  readonly signal: AbortSignal;
}

export interface Created {
  readonly slot: NetworkSlot;
  readonly microvm: Microvm;
  readonly guest: EnvdClient;
  /** Aborts where the guest has answered, and says afterwards that it has not become what it is to be. */
  readonly refused: AbortSignal;
}

/** The guest's default user, and where a process without a directory starts; as E2B's SDKs expect them. */
const DEFAULT_USER = 'user';
const DEFAULT_WORKDIR = '/home/user';
const MACHINE_ID_BYTES = 16;
const ENTROPY_BYTES = 64;

/** For a new sandbox: its directories, its record, its disk, and then what `bringUp` does. */
export async function createSteps(context: CreateContext): Promise<Created> {
  const { deps, record, save, signal, timed, start } = context;
  const { id, uid, diskMib } = record();
  await timed.end('reserve', id, signal);
  await timed.begin('journal', id, signal);
  await deps.journal.makeDirectories(id, uid);
  const writeJournal = async (): Promise<void> => {
    await allOf(save({}), deps.journal.syncNames());
    await timed.end('journal', id, signal);
  };
  const { layer } = deps.journal.files(id);
  const owner = { uid, gid: uid };
  const makeLayer = (): Promise<void> =>
    timed.run('layer', id, signal, () =>
      start.kind === 'copy'
        ? deps.storage.copyLayer(start.snapshot.layerPath, layer, owner, signal)
        : deps.storage.createLayer(layer, diskMib, owner, signal),
    );
  // The layer is a file in the sandbox's directory, and goes with it whether there is a journal yet or not.
  const [, slot] = await allOf(
    makeLayer(),
    writeJournal().then(() => setUpSlot(context)),
  );
  return bringUp(context, slot);
}

/** Not before both have settled: what is still at work cannot be taken away. */
export async function allOf<A, B>(a: Promise<A>, b: B | Promise<B>): Promise<[A, B]> {
  await Promise.allSettled([a, b]);
  return [await a, await b];
}

export function setUpSlot({ deps, record, signal, timed }: CreateContext): Promise<NetworkSlot> {
  const { id, uid, slotIndex, rateLimits, egress } = record();
  const spec = { uid, gid: uid, rates: slotRates(rateLimits), egress: slotEgress(egress, rateLimits) };
  return timed.run('network', id, signal, () => deps.network.setUp(slotIndex, spec, signal));
}

/** The microVM in its slot, until its guest has answered. */
export async function bringUp(context: CreateContext, slot: NetworkSlot): Promise<Created> {
  const { deps, cleanup, record, signal, timed, start } = context;
  const guest = deps.connectGuest(slot.address, record().accessToken);
  cleanup.register('guest connections', async () => guest.close());

  const microvm = await run(context, slot, guest);

  const refused = new AbortController();
  const onRefused = (error: WrennError): void => {
    refused.abort(error);
    if (start.kind === 'copy') start.onRefused?.();
  };
  const died = new AbortController();
  void microvm.exited.then(({ message }) => died.abort(new WrennError('vmm_died', message)));
  const alive = joinSignals(signal, died.signal);
  try {
    const settled = timed.run('init', record().id, alive.signal, () =>
      initGuest(guest, firstInit(deps, record(), start, onRefused), alive.signal),
    );
    await allOf(settled, context.onSettling?.());
  } finally {
    alive.release();
  }
  return { slot, microvm, guest, refused: refused.signal };
}

/** What makes the guest a machine of its own, or a machine that has slept up to date. */
function firstInit(
  deps: SandboxDeps,
  { id, envs }: JournalRecord,
  start: Start,
  onRefused: (error: WrennError) => void,
): Partial<GuestInit> {
  const { nameservers } = deps;
  const entropy = newEntropy();
  if (start.kind === 'wake') return { envs, identity: { entropy } };
  const machineId = randomBytes(MACHINE_ID_BYTES).toString('hex');
  // A warm template has those of this agent already.
  const isWarm = start.kind === 'copy' && start.snapshot.kind === 'warm';
  return {
    envs,
    replaceEnvs: true,
    identity: { hostname: id, machineId, entropy, ...(isWarm ? {} : { nameservers }) },
    // Nothing but its agent runs in a guest that has just booted, or in a warm template.
    ...(isWarm || start.kind === 'boot' ? { onRefused } : {}),
    ...(start.kind === 'copy' ? { previousAccessToken: start.snapshot.accessToken } : {}),
  };
}

/** By entropy that it has not had a guest knows a life that begins, whatever the host's clock said in the one before. */
export function newEntropy(): Uint8Array {
  return randomBytes(ENTROPY_BYTES);
}

/** Hands the guest its token, environment and the time; again after every pause and adoption. */
export function initGuest(guest: EnvdClient, init: Partial<GuestInit>, signal: AbortSignal): Promise<void> {
  return guest.init(
    { envs: {}, defaultUser: DEFAULT_USER, defaultWorkdir: DEFAULT_WORKDIR, ...init },
    signal,
  );
}

async function run(context: CreateContext, slot: NetworkSlot, guest: EnvdClient): Promise<Microvm> {
  const { deps, cleanup, record, save, signal, timed } = context;
  const { id, memoryMib, vcpus } = record();
  cleanup.register('cgroup', () => removeCgroup(deps, id), { onlyAfterTheRest: true });
  let microvm: Microvm | undefined;
  cleanup.register('microVM', async () => {
    // PID 1 of its namespace, so that nothing else of it lives on; all of /proc need not be searched for it.
    if (microvm !== undefined) return await microvm.kill();
    await endProcesses(deps, record());
  });

  await timed.begin('launch', id, signal);
  const spec = microvmSpec(context, slot);
  const restorable = restorableOf(context);
  // Beside the start of the VMM, which enters it as soon as there is one.
  const group = deps.cgroups.prepare(id, { memoryMib, vcpus });
  const onSpawned = async (handle: MicrovmHandle): Promise<void> => {
    // It outlives the agent, and its program on the disk may be another one by then.
    const vmm = { driver: handle.driver, version: deps.driverVersion };
    await allOf(save({ handle, vmm }, 'agent'), group);
    // Before the guest runs; what the VMM has used by now stays the agent's.
    await deps.cgroups.enter(id, processesOf(handle));
  };
  if (restorable !== undefined) {
    const restored = deps.driver.restore({ ...spec, ...restorable }, { signal, onSpawned });
    [microvm] = await allOf(restored, group);
    await context.onThaw?.();
    await microvm.resume(signal);
    await timed.end('launch', id, signal);
    return microvm;
  }
  let launched = false;
  const booted = deps.bootMicrovm(deps.driver, spec, {
    signal,
    onSpawned,
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
  [microvm] = await allOf(booted, group);
  await timed.end('boot', id, signal);
  return microvm;
}

/** Undefined for one that boots. */
function restorableOf({
  deps,
  start,
  record,
}: CreateContext): Omit<RestoreSpec, keyof MicrovmSpec> | undefined {
  if (start.kind === 'boot') return undefined;
  if (start.kind === 'wake') return sleepingMemory(deps, record());
  const { snapshot } = start;
  return { snapshot, memorySha256: memoryHashOf(snapshot), sharedMemory: true };
}

function microvmSpec({ deps, record }: CreateContext, slot: NetworkSlot): MicrovmSpec {
  const { id, uid, vcpus, memoryMib, rateLimits, images } = record();
  if (images === null) throw new WrennError('internal', `Sandbox ${id} has no images.`);
  const files = deps.journal.files(id);
  const image = { readOnly: true, rateLimit: driveRateLimit(rateLimits, 'image') };
  const layer = { readOnly: false, rateLimit: driveRateLimit(rateLimits, 'layer') };
  return {
    id,
    vcpus,
    memoryMib,
    kernelPath: images.kernelPath,
    initrdPath: images.initrdPath,
    commandLine: guestCommandLine({ hostname: id, nameservers: deps.nameservers }),
    // In the order of DRIVE_ORDER, which the guest's init relies on.
    drives: [
      { id: 'base', path: images.rootfsPath, ...image },
      { id: 'guest', path: images.guestImagePath, ...image },
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

/** The VMM, all that stands between it and the agent, and what of it nobody has written down. */
export async function endProcesses(deps: SandboxDeps, record: JournalRecord): Promise<void> {
  const left = (await killAll(deps, [suspectOf(record)])).get(record.id);
  if (left !== undefined) throw new WrennError('deadline_exceeded', `Sandbox ${record.id}: ${left}.`);
}

/** The same for many at once. Never rejects; tells of whom anything is left, and what. */
export async function killAll(
  { killStrays, config }: SandboxDeps,
  suspects: readonly Suspect[],
): Promise<ReadonlyMap<string, string>> {
  const { cleanupStepMs } = config.timeouts;
  return withDeadline('Ending microVMs', cleanupStepMs, undefined, (limited) =>
    killStrays(suspects, limited),
  );
}

export function suspectOf({ id, uid, handle }: JournalRecord): Suspect {
  return { id, uid, known: processesOf(handle) };
}

function processesOf(handle: MicrovmHandle | null): ProcessIdentity[] {
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

function positionOf(phase: string): number {
  const steps: readonly string[] = CREATE_STEPS;
  return steps.indexOf(phase);
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
    // Of two at once either may end first; told in the order in which they began.
    phases.sort((a, b) => positionOf(a.name) - positionOf(b.name));
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
