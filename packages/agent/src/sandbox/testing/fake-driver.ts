/** MicroVMs that are entries of the ledger; what is written of their memory, and what of it fits together. */
import { WrennError } from '@wrenn/protocol';
import { throwIfAborted } from '../../signals/signals.ts';
import type {
  ExitReason,
  LaunchOptions,
  Microvm,
  MicrovmSpec,
  RestoreSpec,
  VmmDriver,
} from '../../vmm/driver.ts';
import type { FakeVm, Ledger } from './ledger.ts';

/** Beyond what a kernel gives out: a mistake here can hit no real process. */
const FIRST_PID = 10_000_000;

export function fakeDriver(world: Ledger): VmmDriver {
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
