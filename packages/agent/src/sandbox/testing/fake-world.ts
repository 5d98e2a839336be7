/** Everything that a sandbox manager is given, in memory, with a ledger of what is held and what went wrong. */
import { create } from '@bufbuild/protobuf';
import { WrennError } from '@wrenn/protocol';
import { EntryInfoSchema, FileType } from '@wrenn/protocol/filesystem';
import { type ProcessEvent, ProcessEventSchema } from '@wrenn/protocol/process';
import type { Cgroups } from '../../cgroups/cgroups.ts';
import { parseConfig } from '../../config/load.ts';
import type { AgentConfigInput } from '../../config/schema.ts';
import type { EnvdClient } from '../../envd-client/client.ts';
import type { Network, NetworkSlot } from '../../network/slot.ts';
import { abortReason, throwIfAborted } from '../../signals/signals.ts';
import type { Snapshot, Snapshots } from '../../storage/snapshots.ts';
import type { Storage } from '../../storage/storage.ts';
import type {
  ExitReason,
  LaunchOptions,
  Microvm,
  MicrovmHandle,
  MicrovmSpec,
  RestoreSpec,
  VmmDriver,
} from '../../vmm/driver.ts';
import type { BootMicrovm, Checkpoint, SandboxDeps } from '../deps.ts';
import { type Journal, type JournalRecord, parseRecord } from '../journal.ts';
import type { Logger, Observer } from '../log.ts';

export interface FakeVm {
  readonly handle: MicrovmHandle;
  status: 'running' | 'paused';
  alive: boolean;
  /** The memory file that it was restored from. */
  readonly mappedPath: string | undefined;
  /** The VMM ends by itself. */
  die(message: string): void;
}

export interface FakeWorld {
  readonly deps: SandboxDeps;
  readonly vms: Map<number, FakeVm>;
  /** Indices that are reserved, and whether their kernel objects are there. */
  readonly slots: Map<number, 'reserved' | 'up'>;
  readonly layers: Set<string>;
  readonly removedTemplates: string[];
  /** Memory files that were written. */
  readonly snapshots: Set<string>;
  /** Those of them that are deltas, and of what. */
  readonly deltas: Map<string, string>;
  readonly manifests: Map<string, Snapshot>;
  /** The pids in each, by the sandbox's id. */
  readonly cgroups: Map<string, number[]>;
  /** Why the kernel has killed a VMM, by the sandbox's id. */
  readonly killedBecause: Map<string, string>;
  readonly journals: Map<string, string>;
  /** Contracts that were broken; empty at the end of every test. */
  readonly violations: string[];
  readonly logged: { readonly level: string; readonly message: string; readonly fields: object }[];
  readonly counted: string[];
  /** Of the host, for whom the pool makes room. */
  availableMemoryMib: number;
  /** What the guest does with a command; the default prints its arguments. */
  onExec: (command: readonly string[]) => AsyncIterable<ProcessEvent>;
  readonly signalled: { readonly pid: number; readonly signal: number }[];
  readonly inputs: { readonly pid: number; readonly bytes: Uint8Array }[];
  /** Called within every operation: throws to make it fail, waits to make it slow. */
  disturb: (operation: string, signal?: AbortSignal) => Promise<void>;
  aliveVms(): FakeVm[];
  /** As kill -9 would: nothing that this agent has begun goes on. */
  killAgent(): void;
}

export interface FakeWorldOptions {
  readonly config?: AgentConfigInput;
  readonly checkpoint?: Checkpoint;
  readonly bootId?: string;
  /** What an earlier world has left on the host. */
  readonly from?: FakeWorld;
}

/** Beyond what a kernel gives out: a mistake here can hit no real process. */
const FIRST_PID = 10_000_000;

export function createFakeWorld(options: FakeWorldOptions = {}): FakeWorld {
  const config = parseConfig(options.config ?? {});
  const { from } = options;
  const world: Omit<FakeWorld, 'deps'> = {
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
    onExec: echo,
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
    driver,
    driverNamed: () => driver,
    bootMicrovm,
    killStrays: async (id, _uid, known) => {
      for (const { pid } of known) world.vms.get(pid)?.die('killed');
      for (const vm of world.aliveVms()) if (vm.handle.runDir.includes(id)) vm.die('killed');
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

type Ledger = Omit<FakeWorld, 'deps'>;

function fakeDriver(world: Ledger): VmmDriver {
  const attach = (vm: FakeVm & { exited: Promise<ExitReason> }): Microvm => {
    let busy = false;
    const alone = async (name: string, signal: AbortSignal | undefined, work: () => void): Promise<void> => {
      if (busy) world.violations.push(`two operations at once on VM ${vm.handle.pid}: ${name}`);
      busy = true;
      try {
        await world.disturb(name, signal);
        if (!vm.alive) throw new WrennError('vmm_died', 'The VMM is gone.');
        work();
      } finally {
        busy = false;
      }
    };
    return {
      handle: vm.handle,
      exited: vm.exited,
      status: async () => vm.status,
      pause: (signal) =>
        alone('pause', signal, () => {
          vm.status = 'paused';
        }),
      resume: (signal) =>
        alone('resume', signal, () => {
          vm.status = 'running';
        }),
      snapshot: (files, { signal, memory, parentMemoryPath }) =>
        alone('snapshot', signal, () => {
          if (parentMemoryPath !== vm.mappedPath)
            world.violations.push(`${parentMemoryPath} for ${vm.mappedPath}`);
          if (memory === 'delta') world.deltas.set(files.memoryPath, vm.mappedPath ?? '');
          if (vm.status !== 'paused') world.violations.push(`a snapshot of a VM that runs: ${vm.handle.pid}`);
          world.snapshots.add(files.memoryPath);
        }),
      consoleTail: async (maxLines) => ['booting', 'booted'].slice(-maxLines),
      diagnose: async () => 'nothing',
      kill: async () => {
        if (busy) world.violations.push(`VM ${vm.handle.pid} was killed in the middle of an operation`);
        await world.disturb('kill');
        vm.die('killed');
      },
      detach: () => {},
    };
  };
  const known = new Map<number, FakeVm & { exited: Promise<ExitReason> }>();
  const start = async (
    operation: 'launch' | 'restore',
    status: FakeVm['status'],
    { runDir, snapshot }: MicrovmSpec & Partial<RestoreSpec>,
    { signal, onSpawned }: LaunchOptions,
  ): Promise<Microvm> => {
    await world.disturb(operation, signal);
    throwIfAborted(signal);
    const pid = FIRST_PID + world.vms.size;
    const handle = { driver: 'qemu', pid, startTime: '1', wrappers: [], runDir } as const;
    let resolve = (_reason: ExitReason): void => {};
    const exited = new Promise<ExitReason>((settle) => {
      resolve = settle;
    });
    const vm: FakeVm & { exited: Promise<ExitReason> } = {
      handle,
      status,
      alive: true,
      mappedPath: snapshot?.memoryPath,
      exited,
      die: (message: string): void => {
        vm.alive = false;
        resolve({ message, log: [] });
      },
    };
    world.vms.set(pid, vm);
    known.set(pid, vm);
    try {
      await onSpawned(handle);
      await world.disturb('spawned', signal);
      throwIfAborted(signal);
    } catch (error) {
      vm.die('killed');
      throw error;
    }
    return attach(vm);
  };
  return {
    name: 'qemu',
    features: { pause: true, snapshot: true, delta: true, accelerator: 'tcg' },
    version: async () => '0.0.0',
    launch: (spec, launchOptions) => start('launch', 'running', spec, launchOptions),
    restore: async (spec, launchOptions) => {
      const { snapshot, delta } = spec;
      for (const path of [snapshot.memoryPath, ...(delta === undefined ? [] : [delta.path])]) {
        if (world.snapshots.has(path)) continue;
        world.violations.push(`the memory ${path} is gone`);
        throw new WrennError('file_not_found', 'No memory.');
      }
      if (world.deltas.has(snapshot.memoryPath)) world.violations.push('a delta was taken for whole memory');
      if (delta !== undefined && world.deltas.get(delta.path) !== snapshot.memoryPath)
        world.violations.push(
          `a delta of ${world.deltas.get(delta.path)} was put upon ${snapshot.memoryPath}`,
        );
      return start('restore', 'paused', spec, launchOptions);
    },
    adopt: async ({ pid }) => {
      const vm = world.vms.get(pid);
      if (vm === undefined || !vm.alive || !('exited' in vm)) throw new WrennError('vmm_died', 'It is gone.');
      return attach(vm as FakeVm & { exited: Promise<ExitReason> });
    },
  };
}

function fakeCgroups(world: Ledger): Cgroups {
  const isAlive = (pid: number): boolean => world.vms.get(pid)?.alive === true;
  return {
    status: 'fake',
    complete: true,
    prepare: async (id) => {
      await world.disturb('prepare');
      world.cgroups.set(id, []);
    },
    enter: async (id, processes) => {
      await world.disturb('enter');
      const group = world.cgroups.get(id);
      if (group === undefined) world.violations.push(`${id} was to enter a group that there is not`);
      group?.push(...processes.map(({ pid }) => pid));
    },
    remove: async (id) => {
      await world.disturb('removeCgroup');
      if (world.cgroups.get(id)?.some(isAlive)) world.violations.push(`${id} was alive in its group`);
      world.cgroups.delete(id);
    },
    strays: async (known) => [...world.cgroups.keys()].filter((id) => !known.has(id)),
    whyKilled: async (id) => world.killedBecause.get(id),
    stop: async () => {},
  };
}

function fakeNetwork(world: Ledger): Network {
  const slot = (index: number): NetworkSlot => ({
    index,
    netns: `fake${index}`,
    hostLink: `fake${index}`,
    tap: 'tap0',
    guestMac: '02:00:00:00:00:01',
    address: `192.0.2.${index}`,
  });
  return {
    start: async (inUse) => {
      const removed = [...world.slots.keys()].filter((index) => !inUse.has(index));
      for (const index of removed) world.slots.delete(index);
      for (const index of inUse) world.slots.set(index, 'up');
      return removed;
    },
    reserve: () => {
      // The lowest free one, at once: so that a slot released twice is somebody else's.
      for (let index = 0; index < 250; index++) {
        if (world.slots.has(index)) continue;
        world.slots.set(index, 'reserved');
        return index;
      }
      throw new WrennError('network_slots_exhausted', 'No slot is left.');
    },
    setUp: async (index, _owner, signal) => {
      if (world.slots.get(index) !== 'reserved') world.violations.push(`slot ${index} was not reserved`);
      await world.disturb('setUp', signal);
      throwIfAborted(signal);
      world.slots.set(index, 'up');
      return slot(index);
    },
    setRates: async (index) => {
      if (world.slots.get(index) !== 'up') world.violations.push(`slot ${index} was not set up`);
    },
    setEgress: async (index) => {
      if (world.slots.get(index) !== 'up') world.violations.push(`slot ${index} was not set up`);
    },
    describe: slot,
    release: async (index) => {
      await world.disturb('release');
      if (!world.slots.has(index)) world.violations.push(`slot ${index} was released twice`);
      world.slots.delete(index);
    },
    stop: async () => {},
  };
}

function fakeStorage(world: Ledger): Storage {
  return {
    resolveTemplate: async (name) => {
      if (name !== 'base' || world.removedTemplates.includes(name)) {
        throw new WrennError('template_not_found', `There is no template ${name}.`, { field: 'template' });
      }
      const paths = { rootfsPath: '/base', guestImagePath: '/guest', kernelPath: '/k', initrdPath: '/i' };
      return { name, buildId: 'build-1', ...paths };
    },
    listTemplates: async () =>
      world.removedTemplates.includes('base')
        ? []
        : [{ name: 'base', buildId: 'build-1', sizeBytes: 1, builtAtMs: 1 }],
    removeTemplate: async (name) => {
      await world.disturb('removeTemplate');
      world.removedTemplates.push(name);
    },
    createLayer: async (path, _sizeMib, _owner, signal) => {
      await world.disturb('createLayer', signal);
      throwIfAborted(signal);
      world.layers.add(path);
    },
    copyLayer: async (from, to, _owner, signal) => {
      await world.disturb('copyLayer', signal);
      throwIfAborted(signal);
      if (!world.layers.has(from)) world.violations.push(`a copy of ${from}, which is not there`);
      world.layers.add(to);
    },
  };
}

/** The manifests are kept where the world's snapshots are: an agent that comes later finds them again. */
function fakeSnapshots(world: Ledger): Snapshots {
  const filesOf = (id: string) => {
    const dir = `/snapshots/${id}`;
    return { statePath: `${dir}/state`, memoryPath: `${dir}/memory`, layerPath: `${dir}/layer` };
  };
  const { manifests } = world;
  return {
    load: async () => world.disturb('load'),
    list: () => [...manifests.values()],
    get: (id) => {
      const found = manifests.get(id);
      if (found === undefined) throw new WrennError('snapshot_not_found', `There is no snapshot ${id}.`);
      return found;
    },
    draft: async (id) => {
      await world.disturb('draft');
      const files = filesOf(id);
      let done = false;
      return {
        ...files,
        commit: async (about) => {
          await world.disturb('commit');
          const hash = '0'.repeat(64);
          const snapshot = {
            version: 2,
            id,
            ...about,
            stateSha256: hash,
            memorySha256: hash,
            ...files,
          } as const;
          manifests.set(id, snapshot);
          done = true;
          return snapshot;
        },
        discard: async () => {
          if (done) return;
          world.snapshots.delete(files.memoryPath);
          world.layers.delete(files.layerPath);
        },
      };
    },
    remove: async (id) => {
      await world.disturb('removeSnapshot');
      manifests.delete(id);
      world.snapshots.delete(filesOf(id).memoryPath);
      world.layers.delete(filesOf(id).layerPath);
    },
  };
}

function fakeJournal(world: Ledger): Journal {
  const files = (id: string) => ({
    dir: `/s/${id}`,
    layer: `/s/${id}/layer`,
    runDir: `/s/${id}/run`,
    hibernation: (number: number) => {
      const dir = `/s/${id}/hibernation-${number}`;
      return { dir, statePath: `${dir}/state`, memoryPath: `${dir}/memory` };
    },
  });
  return {
    files,
    makeDirectories: async () => world.disturb('makeDirectories'),
    giveTo: async () => world.disturb('giveTo'),
    makeHibernation: async (id, number) => {
      await world.disturb('makeHibernation');
      return files(id).hibernation(number);
    },
    syncLayer: async () => world.disturb('syncLayer'),
    sealHibernation: async () => {
      await world.disturb('sealHibernation');
      return { memorySha256: '1'.repeat(64), stateSha256: '2'.repeat(64) };
    },
    removeHibernations: async (id, except) => {
      await world.disturb('removeHibernations');
      const kept = new Set(except.map((number) => files(id).hibernation(number).memoryPath));
      for (const path of world.snapshots) {
        if (path.startsWith(`/s/${id}/`) && !kept.has(path)) world.snapshots.delete(path);
      }
    },
    write: async (record) => {
      await world.disturb('journal');
      world.journals.set(record.id, JSON.stringify(record));
    },
    remove: async (id) => {
      await world.disturb('remove');
      world.journals.delete(id);
      world.layers.delete(files(id).layer);
      for (const path of world.snapshots) if (path.startsWith(`/s/${id}/`)) world.snapshots.delete(path);
    },
    readAll: async () => {
      const records: JournalRecord[] = [];
      const corrupt: { id: string; problem: string; uid: undefined }[] = [];
      for (const [id, text] of world.journals) {
        try {
          records.push(parseRecord(text, id));
        } catch (error) {
          corrupt.push({ id, problem: String(error), uid: undefined });
        }
      }
      return { records, corrupt };
    },
    setAside: async () => {},
  };
}

function fakeGuest(world: Ledger, address: string): EnvdClient {
  let open = true;
  const check = (what: string): void => {
    if (!open) world.violations.push(`${what} on the closed guest ${address}`);
  };
  const entry = (path: string) =>
    create(EntryInfoSchema, { path, name: path, type: FileType.FILE, size: 3n, mode: 0o644 });
  return {
    waitUntilHealthy: async (_timeoutMs, signal) => {
      await world.disturb('health', signal);
      throwIfAborted(signal);
    },
    init: async (_settings, signal) => {
      check('init');
      await world.disturb('init', signal);
      throwIfAborted(signal);
    },
    quiesce: async (signal) => {
      check('quiesce');
      await world.disturb('quiesce', signal);
      throwIfAborted(signal);
    },
    startProcess: async function* ({ command }, signal) {
      check('exec');
      const aborted = new Promise<never>((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(abortReason(signal)), { once: true });
      });
      aborted.catch(() => {});
      const events = world.onExec(command)[Symbol.asyncIterator]();
      for (;;) {
        const next = await Promise.race([events.next(), aborted]);
        if (next.done === true) return;
        yield next.value;
      }
    },
    sendInput: async (pid, _kind, bytes, signal) => {
      await world.disturb('sendInput', signal);
      world.inputs.push({ pid, bytes });
      return true;
    },
    closeStdin: async (pid) => {
      world.inputs.push({ pid, bytes: new Uint8Array() });
    },
    sendSignal: async (pid, signal) => {
      world.signalled.push({ pid, signal });
    },
    resizeTerminal: async () => {},
    stat: async (path) => entry(path),
    list: async (path) => [entry(path)],
    makeDirectory: async (path) => entry(path),
    remove: async () => {},
    readFile: async (path) =>
      (async function* () {
        yield Buffer.from(path);
      })(),
    writeFile: async (path, _user, source) => {
      for await (const bytes of source) world.inputs.push({ pid: 0, bytes });
      return path;
    },
    close: () => {
      open = false;
    },
  };
}

async function* echo(command: readonly string[]): AsyncGenerator<ProcessEvent> {
  yield startEvent(100);
  yield create(ProcessEventSchema, {
    event: {
      case: 'data',
      value: { output: { case: 'stdout', value: Buffer.from(command.slice(1).join(' ')) } },
    },
  });
  yield endEvent(0);
}

export function startEvent(pid: number): ProcessEvent {
  return create(ProcessEventSchema, { event: { case: 'start', value: { pid } } });
}

export function endEvent(exitCode: number): ProcessEvent {
  const value = { exitCode, exited: true, status: `exit status ${exitCode}` };
  return create(ProcessEventSchema, { event: { case: 'end', value } });
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
