/** Everything that a sandbox manager is given, in memory, with a ledger of what is held and what went wrong. */
import { parseConfig } from '../../config/load.ts';
import type { AgentConfigInput } from '../../config/schema.ts';
import type { BootMicrovm, Checkpoint, SandboxDeps } from '../deps.ts';
import type { Logger, Observer } from '../log.ts';
import { fakeCgroups } from './fake-cgroups.ts';
import { fakeDriver } from './fake-driver.ts';
import { echo, fakeGuest } from './fake-guest.ts';
import { fakeJournal } from './fake-journal.ts';
import { fakeNetwork } from './fake-network.ts';
import { fakeSnapshots, fakeStorage } from './fake-storage.ts';
import type { FakeWorld, Ledger } from './ledger.ts';

export { endEvent, startEvent } from './fake-guest.ts';
export type { FakeWorld } from './ledger.ts';

export interface FakeWorldOptions {
  readonly config?: AgentConfigInput;
  readonly checkpoint?: Checkpoint;
  readonly bootId?: string;
  /** What an earlier world has left on the host. */
  readonly from?: FakeWorld;
}

export function createFakeWorld(options: FakeWorldOptions = {}): FakeWorld {
  const config = parseConfig(options.config ?? {});
  const { from } = options;
  const world: Ledger = {
    vms: from?.vms ?? new Map(),
    slots: from?.slots ?? new Map(),
    layers: from?.layers ?? new Set(),
    removedTemplates: from?.removedTemplates ?? [],
    snapshots: from?.snapshots ?? new Set(),
    deltas: from?.deltas ?? new Map(),
    manifests: from?.manifests ?? new Map(),
    cgroups: from?.cgroups ?? new Map(),
    killedBecause: from?.killedBecause ?? new Map(),
    journals: from?.journals ?? new Map(),
    violations: from?.violations ?? [],
    logged: [],
    counted: [],
    availableMemoryMib: 8192,
    availableDiskBytes: 2 ** 40,
    onExec: echo,
    onAnsweredFirst: () => {},
    settings: new Map(),
    nowMs: () => performance.now(),
    signalled: [],
    inputs: [],
    disturb: async () => {},
    killAgent: () => {
      world.disturb = () => new Promise(() => {});
    },
    aliveVms: () => [...world.vms.values()].filter((vm) => vm.alive),
  };
  const driver = fakeDriver(world);
  const bootMicrovm: BootMicrovm = async (chosen, spec, { signal, onSpawned, waitUntilUp }) => {
    const microvm = await chosen.launch(spec, { signal, onSpawned });
    try {
      await waitUntilUp(signal);
      return microvm;
    } catch (error) {
      await microvm.kill();
      throw error;
    }
  };
  const deps: SandboxDeps = {
    config,
    host: { vcpus: 4, memoryMib: 8192, bootId: options.bootId ?? 'boot-1' },
    availableMemoryMib: async () => world.availableMemoryMib,
    availableDiskBytes: async () => world.availableDiskBytes,
    driver,
    driverNamed: () => driver,
    bootMicrovm,
    killStrays: async (suspects) => {
      for (const { id, known } of suspects) {
        for (const { pid } of known) world.vms.get(pid)?.die('killed');
        for (const vm of world.aliveVms()) if (vm.handle.runDir.includes(id)) vm.die('killed');
      }
      return new Map();
    },
    cgroups: fakeCgroups(world),
    network: fakeNetwork(world),
    storage: fakeStorage(world),
    snapshots: fakeSnapshots(world),
    driverVersion: '0.0.0',
    journal: fakeJournal(world),
    connectGuest: (address) => fakeGuest(world, address),
    nameservers: ['192.0.2.1'],
    log: fakeLog(world),
    observer: fakeObserver(world),
    ...(options.checkpoint === undefined ? {} : { checkpoint: options.checkpoint }),
  };
  return Object.assign(world, { deps });
}

function fakeLog({ logged }: Ledger): Logger {
  const at =
    (level: string) =>
    (fields: object, message: string): void => {
      logged.push({ level, message, fields });
    };
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

function fakeObserver({ counted }: Ledger): Observer {
  return {
    created: () => counted.push('created'),
    createFailed: (code) => counted.push(`createFailed ${code}`),
    failed: () => counted.push('failed'),
    destroyed: () => counted.push('destroyed'),
    adopted: () => counted.push('adopted'),
    cleanupFailed: (step) => counted.push(`cleanupFailed ${step}`),
    execStarted: () => counted.push('exec'),
  };
}
