/**
 * The Firecracker driver: launch, adoption, version. The order of the calls and the reasons for it are in
 * docs/firecracker.md.
 */
import { closeSync } from 'node:fs';
import { isAlive, waitUntilGone } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { type LaunchConfined, launchConfined } from '../confinement.ts';
import type {
  LaunchOptions,
  Microvm,
  MicrovmHandle,
  MicrovmSpec,
  RestoreSpec,
  SnapshotFiles,
  VmmDriver,
} from '../driver.ts';
import { checkFile, createMemoryChecks } from '../memory/verify.ts';
import { type OutputPaths, type OutputReader, openFifoForVmm, readOutput } from '../output.ts';
import { killAll } from '../processes.ts';
import { releaseAll } from '../releases.ts';
import { takeBackRunDir } from '../run-dir.ts';
import { waitForSocket } from '../socket.ts';
import { type WatchdogOptions, withWatchdog } from '../watchdog.ts';
import type { ConfinedProcess, ExitStatus } from '../wrapped-process.ts';
import {
  type ApiTimeouts,
  createConnections,
  createFirecrackerApi,
  DEFAULT_API_TIMEOUTS,
  type FirecrackerApi,
} from './api.ts';
import { askVersion, type FirecrackerPrograms, findBinary, findJailer, makeFifos } from './binary.ts';
import { createPlainEnclosure, type Enclosure } from './enclosure.ts';
import { createJail } from './jail.ts';
import { toldOfDeath, withLastWords } from './last-words.ts';
import { loadWithDelta } from './load-delta.ts';
import {
  DEFAULT_MACHINE_OPTIONS,
  describeMachine,
  type Machine,
  type MachineOptions,
  serialLimit,
} from './machine.ts';
import { createMicrovm, filesIn, type MicrovmFiles, removeFiles } from './microvm.ts';
import { lendSnapshot, loadSnapshot } from './snapshot.ts';
import { assertSupported } from './version.ts';

export interface FirecrackerOptions extends FirecrackerPrograms {
  /** Tests that are not root replace it. */
  readonly launchConfined?: LaunchConfined;
  /** For what goes wrong without failing an operation; goes to the agent's log. */
  readonly onWarning?: (message: string, cause: unknown) => void;
  readonly machine?: MachineOptions;
  readonly timeouts?: FirecrackerTimeouts;
  readonly watchdog?: WatchdogOptions;
}

export interface FirecrackerTimeouts {
  /** From the start of the process to its open socket. */
  readonly socketMs: number;
  readonly api: ApiTimeouts;
}

export const DEFAULT_TIMEOUTS: FirecrackerTimeouts = { socketMs: 10_000, api: DEFAULT_API_TIMEOUTS };

/**
 * The thread that answers also does the guest's disk requests, one after the other: a host whose disk is slow for a
 * minute is no reason to kill what waits for it.
 */
const FIRECRACKER_WATCHDOG: WatchdogOptions = { intervalMs: 10_000, misses: 12 };

/** An adopted process is nobody's child: looked at this often. */
const WATCH_INTERVAL_MS = 250;

export function createFirecrackerDriver(options: FirecrackerOptions): VmmDriver {
  const timeouts = options.timeouts ?? DEFAULT_TIMEOUTS;
  const machineOptions = options.machine ?? DEFAULT_MACHINE_OPTIONS;
  const watchdog = options.watchdog ?? FIRECRACKER_WATCHDOG;
  const warn = options.onWarning ?? (() => {});
  const checks = createMemoryChecks();
  const confine = options.launchConfined ?? launchConfined;

  const openOutput = async (paths: OutputPaths): Promise<OutputReader | undefined> => {
    const onProblem = (error: unknown): void => warn(`Output is not kept in ${paths.file} any more`, error);
    try {
      return await readOutput(paths, onProblem);
    } catch (error) {
      onProblem(error);
      return undefined;
    }
  };

  const enclose = async (
    program: string,
    spec: MicrovmSpec,
    files: MicrovmFiles,
    snapshot: SnapshotFiles | undefined,
  ): Promise<Enclosure> => {
    const jailer = await findJailer(options.jailer, program);
    const parts = { program, spec, files, snapshot };
    return jailer === undefined ? createPlainEnclosure(parts, confine) : createJail(parts, jailer);
  };

  const start = async (
    spec: MicrovmSpec,
    from: Pick<RestoreSpec, 'snapshot' | 'delta'> | undefined,
    oldLogs: 'not the logs' | 'logs too',
    { signal, onSpawned }: LaunchOptions,
  ): Promise<Microvm> => {
    // What is refused is refused under the names that the caller knows.
    describeMachine(spec, machineOptions);
    const snapshot = from?.snapshot;
    const program = await findBinary(options.binary);
    const files = filesIn(spec.runDir);
    const enclosure = await enclose(program, spec, files, snapshot);
    const machine = describeMachine(enclosure.spec, machineOptions);
    const releases: (() => unknown)[] = [];
    let handle: MicrovmHandle | undefined;
    try {
      releases.push(() => takeBackRunDir(spec.runDir));
      releases.push(() => removeFiles(spec.runDir, oldLogs));
      await removeFiles(spec.runDir, oldLogs);
      await allOf([makeFifos([files.console.fifo, files.log.fifo], spec, signal), enclosure.prepare()]);
      const inherited: number[] = [];
      const closeInherited = (): void => {
        for (const fd of inherited.splice(0)) closeSync(fd);
      };
      releases.push(closeInherited);
      inherited.push(openFifoForVmm(files.console.fifo));
      inherited.push(openFifoForVmm(files.log.fifo));
      const [stdout = -1, stderr = -1] = inherited;

      const console = await openOutput(files.console);
      releases.push(() => console?.close());
      const log = await openOutput(files.log);
      releases.push(() => log?.close());

      // Told of while the process comes up; and nothing is taken away before whoever is told has done with it.
      let told: Promise<void> | undefined;
      releases.push(() => handle && killAll([handle, ...handle.wrappers]));
      releases.push(() => told?.catch(() => {}));
      const process = await withLastWords(log, () =>
        enclosure.start(
          argumentsOf(enclosure),
          { stdout, stderr },
          {
            signal,
            onSpawned: async ({ pid, startTime }, wrappers) => {
              handle = { driver: 'firecracker', pid, startTime, wrappers, runDir: spec.runDir };
              told = onSpawned(handle);
              told.catch(() => {});
            },
          },
        ),
      ).finally(closeInherited);
      handle ??= handleOf(process, spec.runDir);

      const connection = createConnections();
      releases.push(() => connection.destroy());
      const api = createFirecrackerApi(files.socket, timeouts.api, connection);
      await toldOfDeath(process.exited, log, signal, async (gone) => {
        const listens = await waitForSocket(files.socket, {
          vmm: 'Firecracker',
          timeoutMs: timeouts.socketMs,
          signal,
          gone,
        });
        if (!listens) return;
        await allOf([
          configureSerial(api, signal),
          snapshot === undefined ? configure(api, machine, signal) : undefined,
          enclosure.seal(),
          told,
        ]);
        if (snapshot === undefined) await api.putAction('InstanceStart', signal);
        else {
          const load = (limited: AbortSignal): Promise<void> =>
            loadSnapshot(api, machine, enclosure.snapshot, limited);
          if (from?.delta === undefined) await load(signal);
          else await loadWithDelta(load, spec, process, from.delta.path, signal);
        }
      });
      connection.destroy();
      const microvm = createMicrovm({
        handle,
        api: createFirecrackerApi(files.socket, timeouts.api),
        processExited: process.exited,
        console,
        log,
        detachProcess: () => {},
      });
      return withWatchdog(microvm, watchdog, warn);
    } catch (error) {
      await releaseAll(releases, warn);
      throw error;
    }
  };

  const restore = async (spec: RestoreSpec, launchOptions: LaunchOptions): Promise<Microvm> => {
    const { snapshot, memorySha256, stateSha256, delta, keepsLogs } = spec;
    const { signal } = launchOptions;
    await checkFile(snapshot.statePath, stateSha256, signal);
    if (delta !== undefined) await checkFile(delta.path, delta.sha256, signal);
    await checks.check(snapshot.memoryPath, memorySha256, signal);
    await lendSnapshot(spec);
    return start(spec, spec, keepsLogs === true ? 'not the logs' : 'logs too', launchOptions);
  };

  const adopt = async (handle: MicrovmHandle, signal: AbortSignal): Promise<Microvm> => {
    signal.throwIfAborted();
    const files = filesIn(handle.runDir);
    if (!(await isAlive(handle))) {
      await killAll(handle.wrappers);
      throw new WrennError('vmm_died', `The microVM's Firecracker (process ${handle.pid}) is gone.`, {
        hint: `Its last words may be in ${files.log.file}.`,
      });
    }
    const watching = new AbortController();
    const processExited = waitUntilGone(handle, {
      signal: watching.signal,
      pollMs: WATCH_INTERVAL_MS,
    }).then(
      (): ExitStatus => ({ code: null, signal: null }),
      // Detached: whoever still waits is told nothing.
      () => new Promise<ExitStatus>(() => {}),
    );
    const microvm = createMicrovm({
      handle,
      api: createFirecrackerApi(files.socket, timeouts.api),
      processExited,
      console: await openOutput(files.console),
      log: await openOutput(files.log),
      detachProcess: () => watching.abort(),
    });
    return withWatchdog(microvm, watchdog, warn);
  };

  return {
    name: 'firecracker',
    features: { pause: true, snapshot: true, delta: true, accelerator: 'kvm' },
    version: async (signal) => (await askVersion(await findBinary(options.binary), signal)).text,
    launch: (spec, launchOptions) => start(spec, undefined, 'logs too', launchOptions),
    restore,
    adopt,
  };
}

function argumentsOf({ socket, logFifo }: Enclosure): string[] {
  // No word of seccomp: its default filters are on unless told otherwise.
  return ['--api-sock', socket, '--log-path', logFifo, '--level', 'Info', '--show-level'];
}

function handleOf(process: ConfinedProcess, runDir: string): MicrovmHandle {
  const { pid, startTime, wrappers } = process;
  return { driver: 'firecracker', pid, startTime, wrappers, runDir };
}

/** The one thing that a snapshot does not have in it. */
async function configureSerial(api: FirecrackerApi, signal: AbortSignal): Promise<void> {
  const version = await api.version(signal);
  assertSupported(version);
  const serial = serialLimit(version);
  if (serial !== undefined) await api.putSerial(serial, signal);
}

/** Everything is configured before the start: no device can be added afterwards. */
async function configure(api: FirecrackerApi, machine: Machine, signal: AbortSignal): Promise<void> {
  const putDrives = async (): Promise<void> => {
    // One after the other: the order of the calls is the order of /dev/vda, vdb, vdc.
    for (const drive of machine.drives) await api.putDrive(drive, signal);
  };
  await allOf([
    api.putMachineConfig(machine.machineConfig, signal),
    api.putBootSource(machine.bootSource, signal),
    putDrives(),
    api.putNetworkInterface(machine.networkInterface, signal),
    api.putEntropy(machine.entropy, signal),
  ]);
}

/** Side by side; not before all have settled, as what is still at work cannot be taken away. */
async function allOf(all: readonly (Promise<void> | undefined)[]): Promise<void> {
  await Promise.allSettled(all);
  await Promise.all(all);
}
