/** Puts together what touches the host and the VMMs, as the configuration and the machine will have it. */
import { findBootFiles } from '@wrenn/images';
import { createCgroups } from '../cgroups/cgroups.ts';
import type { AgentConfig, AgentPaths } from '../config/schema.ts';
import { createEgressGateway } from '../network/gateway/supervisor.ts';
import { createNetwork, deniedToGuests } from '../network/network.ts';
import { type ReadyNetwork, withReadySlots } from '../network/ready-slots.ts';
import type { BootMicrovm } from '../sandbox/deps.ts';
import type { Logger } from '../sandbox/log.ts';
import { killStrays } from '../sandbox/strays.ts';
import { bootMicrovm } from '../vmm/boot.ts';
import type { DriverName, VmmDriver } from '../vmm/driver.ts';
import { createFirecrackerDriver, firecrackerFromEnv } from '../vmm/firecracker/index.ts';
import { createQemuDriver } from '../vmm/qemu/index.ts';
import { selectDriver } from '../vmm/select.ts';
import type { World } from './daemon.ts';
import { readNameservers } from './nameservers.ts';

export interface WorldOptions {
  readonly config: AgentConfig;
  readonly paths: AgentPaths;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** The one below those of the slots is the probe's. */
const GATEWAY_UID_BELOW_BASE = 2;
/** A new sandbox's first command wants the CPU more. */
const REFILL_DELAY_MS = 500;

export async function createWorld({ config, paths, log, signal }: WorldOptions): Promise<World> {
  const onWarning = (message: string, err: unknown) => log.warn({ err }, message);
  const { kernelPath, initrdPath } = await findBootFiles(paths.imagesDir);
  const firecracker = firecrackerFromEnv();
  const selected = await selectDriver({
    preference: config.driver,
    firecracker,
    probe: {
      kernelPath,
      initrdPath,
      directory: paths.wrennDir,
      // The one below those of the slots.
      uid: config.uidBase - 1,
      timeoutMs: config.timeouts.kvmProbeMs,
    },
    devicesDir: paths.devicesDir,
    onWarning,
    signal,
  });
  const cgroups = await createCgroups({ ...config.cgroups, prefix: config.network.prefix });
  if (config.cgroups.mode === 'auto' && !cgroups.complete) {
    log.warn({ cgroups: cgroups.status }, 'microVMs are not limited by cgroups in every way');
  }
  const { driver } = selected;
  const others: Readonly<Record<DriverName, () => VmmDriver>> = {
    qemu: () => createQemuDriver({ accelerator: 'tcg', onWarning }),
    firecracker: () => createFirecrackerDriver({ onWarning, ...firecracker }),
  };
  const { bootMs, bootAttempts } = config.timeouts;
  const boot: BootMicrovm = (vmm, spec, { signal: caller, onSpawned, waitUntilUp, onAttemptFailed }) =>
    bootMicrovm(vmm, spec, {
      signal: caller,
      onSpawned,
      ready: (_, attemptSignal) => waitUntilUp(attemptSignal),
      bootDeadlineMs: bootMs,
      attempts: bootAttempts,
      onAttemptFailed,
    });
  return {
    driver,
    driverReason: selected.reason,
    driverVersion: selected.version,
    driverNamed: (name) => (name === driver.name ? driver : others[name]()),
    bootMicrovm: boot,
    killStrays,
    cgroups,
    network: await createGuardedNetwork(config, paths, onWarning),
  };
}

async function createGuardedNetwork(
  { network, uidBase }: AgentConfig,
  { wrennDir }: AgentPaths,
  onWarning: (message: string, cause: unknown) => void,
): Promise<ReadyNetwork> {
  const { connectMs, resolvers, maxConnectionsPerSandbox: maxConnections, ...limits } = network.egress;
  const gatewayUid = uidBase - GATEWAY_UID_BELOW_BASE;
  const settings = {
    ...network,
    owner: wrennDir,
    nameservers: network.nameservers ?? (await readNameservers()),
    gatewayUid,
  };
  const gateway = createEgressGateway({
    settings: {
      uid: gatewayUid,
      denied: deniedToGuests(settings),
      ...(resolvers === undefined ? {} : { resolvers }),
      connectMs,
      limits: { ...limits, maxConnections },
    },
    // The program that runs, in another role.
    command: (role) => [process.execPath, process.argv[1] ?? '', role],
    onWarning,
  });
  return withReadySlots(createNetwork(settings, undefined, gateway), {
    size: network.readySlots,
    ownerOf: (index) => ({ uid: uidBase + index, gid: uidBase + index }),
    refillDelayMs: REFILL_DELAY_MS,
    onWarning,
  });
}
