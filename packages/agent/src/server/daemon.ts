/** The agent as a whole: puts every part together, and takes them apart in the reverse order. */
import { mkdir } from 'node:fs/promises';
import { availableMemoryMib, freeBytes, machineFacts } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import type { Cgroups } from '../cgroups/cgroups.ts';
import { type AgentConfig, agentPaths } from '../config/schema.ts';
import { createEnvdClient } from '../envd-client/client.ts';
import type { ReadyNetwork } from '../network/ready-slots.ts';
import type { BootMicrovm, Checkpoint, KillStrays } from '../sandbox/deps.ts';
import { createJournal } from '../sandbox/journal.ts';
import type { Logger } from '../sandbox/log.ts';
import { createSandboxManager } from '../sandbox/manager.ts';
import { createSnapshots } from '../storage/snapshots.ts';
import { createStorage } from '../storage/storage.ts';
import type { DriverName, VmmDriver } from '../vmm/driver.ts';
import { createIdleWatch } from './idle.ts';
import { type Listening, listen } from './listen.ts';
import { takeLock } from './lock.ts';
import { createLogger } from './log.ts';
import { createMetrics } from './metrics.ts';
import { readNameservers } from './nameservers.ts';
import { registerServices } from './services.ts';
import { AGENT_VERSION } from './version.ts';
import { createWorld } from './world.ts';

/** What touches the host and the VMMs. */
export interface World {
  readonly driver: VmmDriver;
  readonly driverReason: string;
  readonly driverVersion: string;
  readonly driverNamed: (name: DriverName) => VmmDriver;
  readonly bootMicrovm: BootMicrovm;
  readonly killStrays: KillStrays;
  readonly cgroups: Cgroups;
  readonly network: ReadyNetwork;
}

export interface StartAgentOptions {
  readonly config: AgentConfig;
  /** For tests: fails or delays the steps of creations. */
  readonly checkpoint?: Checkpoint;
  /** Aborts the start. */
  readonly signal?: AbortSignal;
  /** Where the log goes; by default where the configuration says. */
  readonly log?: Logger;
}

export interface RunningAgent {
  readonly socketPath: string;
  /** Settles once the agent has ended: by `stop`, because it was idle, or because it lost its lock. */
  readonly stopped: Promise<void>;
  /** Ends the agent and leaves every microVM running. Idempotent; never rejects. */
  stop(): Promise<void>;
}

/** Throws `agent_already_running`, `missing_privilege`, `missing_program`, `driver_unavailable`, `network_conflict`, `cgroups_unavailable`. */
export async function startAgent(options: StartAgentOptions): Promise<RunningAgent> {
  const { config, checkpoint } = options;
  if (process.getuid?.() !== 0) {
    throw new WrennError('missing_privilege', 'The agent must run as root.', {
      hint: 'It makes namespaces, network links and users for microVMs. Run it with sudo.',
    });
  }
  const signal = options.signal ?? new AbortController().signal;
  const paths = agentPaths(config);
  const startedAtMs = Date.now();
  await mkdir(paths.sandboxesDir, { recursive: true, mode: 0o711 });
  const log = options.log ?? createLogger(config.log);
  const lock = await takeLock(paths.lockFile);
  let letGo = async (): Promise<void> => {};
  try {
    const host = await machineFacts();
    const world = await createWorld({ config, paths, log, signal });
    const metrics = createMetrics();
    const { guestRequestMs, guestStallMs } = config.timeouts;
    const manager = createSandboxManager({
      ...world,
      config,
      host,
      availableMemoryMib,
      availableDiskBytes: freeBytes,
      snapshots: createSnapshots(paths.snapshotsDir),
      storage: createStorage({ ...paths, diskReserveMib: config.limits.diskReserveMib }),
      journal: createJournal(paths.sandboxesDir, paths.corruptDir),
      connectGuest: (address, accessToken) =>
        createEnvdClient({
          host: address,
          accessToken,
          requestTimeoutMs: guestRequestMs,
          stallMs: guestStallMs,
        }),
      nameservers: config.network.nameservers ?? (await readNameservers()),
      log,
      observer: metrics.observer,
      ...(checkpoint === undefined ? {} : { checkpoint }),
    });
    const detach = async (): Promise<void> => {
      await manager.detach();
      world.driver.close?.();
    };
    letGo = async () => {
      await detach();
      await attempt(log, 'giving the cgroups back', world.cgroups.stop());
    };
    await manager.start(signal);
    letGo = async () => {
      await detach();
      // All of it, unless sandboxes live on.
      await attempt(log, 'taking the network away', world.network.stop());
      await attempt(log, 'giving the cgroups back', world.cgroups.stop());
    };

    const info = {
      version: AGENT_VERSION,
      startedAtMs,
      driver: world.driver.name,
      accelerator: world.driver.features.accelerator,
      driverVersion: world.driverVersion,
      driverReason: world.driverReason,
    };
    const listening = await listen({
      socketPath: paths.socketPath,
      limits: config.server,
      routes: (router) => registerServices(router, { manager, metrics, info }),
      onRequestEnded: metrics.requestEnded,
      log,
    });
    log.info(
      {
        socket: paths.socketPath,
        driver: info.driver,
        cgroups: world.cgroups.status,
        tookMs: Date.now() - startedAtMs,
      },
      'ready',
    );

    world.network.keepReady();

    const stopOnce = async (): Promise<void> => {
      idle.stop();
      await leave(log, listening, letGo, config.timeouts.shutdownMs);
      await attempt(log, 'giving the lock back', lock.release());
      log.info({ sandboxesLeft: manager.liveCount() }, 'stopped');
    };
    let stopping: Promise<void> | undefined;
    const stop = (): Promise<void> => {
      stopping ??= stopOnce().then(onStopped);
      return stopping;
    };
    let onStopped = (): void => {};
    const stopped = new Promise<void>((resolve) => {
      onStopped = resolve;
    });
    const idle = createIdleWatch({
      idleTimeoutMs: config.idleTimeoutMs,
      isBusy: () => manager.liveCount() > 0 || listening.activity().requests > 0,
      lastActiveAtMs: () => listening.activity().lastAtMs,
      onIdle: () => {
        log.info({}, 'nothing to do: leaving');
        void stop();
      },
    });
    void lock.lost.then(() => {
      log.error({}, 'the lock was lost: leaving before another agent does the same work');
      return stop();
    });
    return { socketPath: paths.socketPath, stopped, stop };
  } catch (error) {
    await letGo();
    await lock.release();
    throw error;
  }
}

/** Requests end because the sandboxes let go of them; the rest is cut off. */
async function leave(
  log: Logger,
  listening: Listening,
  letGo: () => Promise<void>,
  shutdownMs: number,
): Promise<void> {
  const closed = listening.close(shutdownMs / 2);
  await attempt(log, 'letting go of the sandboxes', letGo());
  await attempt(log, 'closing the socket', closed);
}

async function attempt(log: Logger, what: string, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (err) {
    log.error({ err }, `${what} failed`);
  }
}
