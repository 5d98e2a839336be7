/**
 * Warm templates: for each template and size that is asked for, a snapshot of a guest that has booted, loaded its
 * agent's code and used it once. A sandbox starts from it in the time that a boot takes to begin.
 *
 * They are made in the background, one at a time, after the first sandbox of their kind has booted, and replaced when
 * the template, the kernel, the guest's agent or the VMM is another.
 */
import { randomBytes } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Snapshot } from '../storage/snapshots.ts';
import type { Template } from '../storage/storage.ts';
import type { Copies } from './copies.ts';
import { initGuest } from './create.ts';
import type { SandboxDeps } from './deps.ts';
import { collect, exec } from './exec.ts';
import { createGuestFiles } from './guest.ts';
import { orderOf, type Roster } from './roster.ts';
import type { Sandbox } from './sandbox-parts.ts';
import { ownSpec, type Size } from './spec.ts';
import { createTrials } from './trials.ts';

export interface WarmTemplates {
  /** The newest that fits; undefined where there is none yet. */
  find(template: Template, size: Size): Snapshot | undefined;
  /** The same, made now if there is none; once for all who ask at the same time. */
  make(template: Template, size: Size): Promise<Snapshot>;
  /** Makes it when nothing else is going on. Never rejects, and does nothing where warm templates are off. */
  makeLater(template: Template, size: Size): void;
  /** It could not be started from. */
  distrust(snapshot: Snapshot): void;
  /** Somebody's guest says that it is of no use: the agent looks for itself. */
  suspect(snapshot: Snapshot): void;
  /** Whether it is of use; the others go when the last sandbox that came from them does. */
  isWanted(snapshot: Snapshot): boolean;
  /** Nothing is begun any more. */
  stop(): void;
}

/** Every kind of request that the first programs of a sandbox make; what is loaded by then is loaded in each copy. */
const REHEARSALS = 2;
const QUIET_MS = 1_000;
/** Half a second is enough for an emulated guest on an idle host. */
const SETTLE_MS = 1_000;
const FILE = { path: '/tmp/.wrenn-warm', user: undefined };

export function createWarmTemplates(
  deps: SandboxDeps,
  roster: Roster,
  copies: () => Copies,
  isBusy: () => boolean,
): WarmTemplates {
  const { config, log, snapshots, driver } = deps;
  const making = new Map<string, Promise<Snapshot>>();
  const distrusted = new Set<string>();
  const stopping = new AbortController();
  // Every request that is rehearsed listens to it for a while.
  setMaxListeners(0, stopping.signal);
  let last: Promise<unknown> = Promise.resolve();

  const fits = (snapshot: Snapshot, template: Template, size: Size): boolean =>
    snapshot.kind === 'warm' && keyOf(deps, snapshot.template, snapshot) === keyOf(deps, template, size);
  const isSound = ({ id, vmm }: Snapshot): boolean =>
    !distrusted.has(id) &&
    vmm.driver === driver.name &&
    vmm.version === deps.driverVersion &&
    vmm.accelerator === driver.features.accelerator;
  const find = (template: Template, size: Size): Snapshot | undefined =>
    snapshots.list().find((snapshot) => isSound(snapshot) && fits(snapshot, template, size));

  /** A sandbox of the agent's own, which is gone afterwards whatever happens. */
  const makeOne = async (template: Template, size: Size): Promise<Snapshot> => {
    const spec = ownSpec(template.name, size, config.defaults);
    const order = orderOf(deps, { spec, template, start: { kind: 'boot' }, purpose: 'own' });
    const startedAt = performance.now();
    const sandbox = await roster.make(order);
    try {
      for (let round = 0; round < REHEARSALS; round++) await rehearse(deps, sandbox, stopping.signal);
      await settle(deps, sandbox, stopping.signal);
      const snapshot = await copies().take(sandbox, 'warm');
      const tookMs = Math.round(performance.now() - startedAt);
      log.info({ snapshotId: snapshot.id, template: template.name, ...size, tookMs }, 'a template is warm');
      return snapshot;
    } finally {
      await sandbox.destroy();
    }
  };

  const make = (template: Template, size: Size): Promise<Snapshot> => {
    const found = find(template, size);
    if (found !== undefined) return Promise.resolve(found);
    const key = keyOf(deps, template, size);
    const begun = making.get(key);
    if (begun !== undefined) return begun;
    const mine = last.then(() => {
      stopping.signal.throwIfAborted();
      return makeOne(template, size);
    });
    last = mine.catch(() => {});
    making.set(key, mine);
    void last.then(() => making.delete(key));
    void last.then(() => copies().collect());
    return mine;
  };

  const distrust = ({ id }: Snapshot): void => {
    distrusted.add(id);
    void copies().collect();
  };
  const trials = createTrials(deps, roster, distrust, stopping.signal);

  const whenQuiet = async (): Promise<void> => {
    do await sleep(QUIET_MS, undefined, { signal: stopping.signal, ref: false });
    while (isBusy());
  };

  return {
    find,
    make,
    makeLater: (template, size) => {
      if (config.warm.mode === 'off' || !driver.features.snapshot) return;
      whenQuiet()
        .then(() => make(template, size))
        .catch((err: unknown) => {
          if (!stopping.signal.aborted) log.warn({ err, template: template.name }, 'a template is not warm');
        });
    },
    distrust,
    suspect: trials.suspect,
    isWanted: (snapshot) => {
      if (snapshot.kind !== 'warm' || !isSound(snapshot)) return false;
      const sound = snapshots.list().filter((each) => each.kind === 'warm' && isSound(each));
      return sound.slice(0, config.warm.maxKept).includes(snapshot);
    },
    stop: () => stopping.abort(),
  };
}

/** What a snapshot must have in common with what is asked for. */
function keyOf(
  { nameservers }: SandboxDeps,
  template: Template,
  { vcpus, memoryMib, diskMib }: Size,
): string {
  const { buildId, guestImagePath, kernelPath, initrdPath } = template;
  return [buildId, guestImagePath, kernelPath, initrdPath, vcpus, memoryMib, diskMib, nameservers].join(' ');
}

/**
 * What each copy does first is done last, after the garbage of all else is gone: a function that was not called lately
 * is compiled again. Then the guest comes to rest: connections that still end and timers that still run would do so in
 * every copy, before its first answer.
 */
async function settle(deps: SandboxDeps, sandbox: Sandbox, signal: AbortSignal): Promise<void> {
  const { timeouts } = deps.config;
  const lease = sandbox.use();
  try {
    await lease.envd.quiesce(signal);
    for (let round = 0; round < REHEARSALS; round++) {
      const machineId = randomBytes(16).toString('hex');
      const identity = { hostname: `warm-${round}`, machineId, entropy: randomBytes(64) };
      // The command behind it tells of a refusal.
      const onRefused = (): void => {};
      await initGuest(lease.envd, { replaceEnvs: true, onRefused, identity }, signal);
    }
    await collect(
      exec({ ...lease, release: () => {} }, { command: ['true'], envs: {}, stdin: false }, timeouts, signal),
    );
    lease.envd.close();
  } finally {
    lease.release();
  }
  await sleep(SETTLE_MS, undefined, { signal, ref: false });
  await sandbox.pause();
}

/** One of every kind of request that the first programs of a sandbox make. */
export async function rehearse(
  { config }: SandboxDeps,
  sandbox: Sandbox,
  signal: AbortSignal,
): Promise<void> {
  const { timeouts } = config;
  const command = ['sh', '-c', 'cat'];
  const input = async function* () {
    yield { kind: 'stdin', bytes: new Uint8Array([10]) } as const;
    yield { kind: 'closeStdin' } as const;
  };
  await collect(exec(sandbox.use(), { command, envs: {}, stdin: true }, timeouts, signal, input()));
  const terminal = { cols: 80, rows: 24 };
  const inTerminal = exec(
    sandbox.use(),
    { command: ['true'], envs: {}, stdin: false, terminal },
    timeouts,
    signal,
  );
  for await (const _output of inTerminal);
  const files = createGuestFiles(() => sandbox.use(), timeouts);
  const source = async function* () {
    yield new Uint8Array(64 * 1024);
  };
  await files.write(FILE, undefined, source(), signal);
  for await (const _chunk of files.read(FILE, signal));
  await files.list({ path: '/tmp', user: undefined }, 1, signal);
  await files.remove(FILE, signal);
}
