/** The QEMU driver: launch, adoption, version. */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive, runCommand } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { type AppendedLog, openAppendedLog } from '../appended-log.ts';
import { findProgram, INHERITED_DIR, launchConfined } from '../confinement.ts';
import type { LaunchOptions, Microvm, MicrovmHandle, RestoreSpec, VmmDriver } from '../driver.ts';
import { drivePaths, largestWritable } from '../drives.ts';
import { applyDelta } from '../memory/delta.ts';
import { createSharedMemory, DEFAULT_SHARED_MEMORY, type SharedMemory } from '../memory/shared.ts';
import { checkFile, createMemoryChecks } from '../memory/verify.ts';
import { keepOutput, type OutputReader } from '../output.ts';
import { killAll } from '../processes.ts';
import { releaseAll } from '../releases.ts';
import { lendRunDir, takeBackRunDir } from '../run-dir.ts';
import { DEFAULT_WATCHDOG, type WatchdogOptions, withWatchdog } from '../watchdog.ts';
import { type ConfinedProcess, type ExitStatus, FIRST_INHERITED } from '../wrapped-process.ts';
import {
  type Accelerator,
  filesIn,
  incomingUri,
  type MachineOptions,
  type QemuSpec,
  qemuArguments,
  restoreArguments,
} from './arguments.ts';
import { connectTo } from './connect.ts';
import { announcedEnd } from './exit-reason.ts';
import { hostTscKhz } from './host-tsc.ts';
import { tellOfDeath } from './last-words.ts';
import { createMicrovm, queryStatus, removeFiles } from './microvm.ts';
import { openQmp, type QmpClient } from './qmp.ts';
import { type Limits, memoryAddress, placeOf } from './snapshot.ts';
import { watchProcess } from './watch.ts';

export const QEMU_PROGRAM = 'qemu-system-x86_64';

export interface QemuOptions {
  readonly accelerator: Accelerator;
  /** Absolute path of the program; the distribution's if absent. */
  readonly binary?: string;
  /** For what goes wrong without failing an operation; goes to the agent's log. */
  readonly onWarning?: (message: string, cause: unknown) => void;
  readonly timeouts?: QemuTimeouts;
  readonly watchdog?: WatchdogOptions;
  readonly sharedMemory?: SharedMemory;
  /** Where nodes of devices are kept that all microVMs use; each has its own if absent. */
  readonly devicesDir?: string;
}

export interface QemuTimeouts {
  /** From the start of the process to its open socket, and from there to its first answers. */
  readonly socketMs: number;
  /** Each command of the start. */
  readonly commandMs: number;
}

/** What differs between a microVM that boots and one that is restored. */
interface Start {
  readonly args: readonly string[];
  readonly readOnlyPaths: readonly string[];
  readonly inherited: readonly number[];
  readonly keepsLogs: boolean;
  /** Once QEMU answers, and has its run directory no more. */
  readonly begin: (qmp: QmpClient, handle: MicrovmHandle, signal: AbortSignal) => Promise<unknown>;
}

export const DEFAULT_TIMEOUTS: QemuTimeouts = { socketMs: 30_000, commandMs: 10_000 };

const VERSION_TIMEOUT_MS = 10_000;
const LOAD_POLL_MS = 2;

/** The driver also starts microVMs without a network, which only the boot probe wants. */
export interface QemuDriver extends VmmDriver {
  launch(spec: QemuSpec, options: LaunchOptions): Promise<Microvm>;
}

export function createQemuDriver(options: QemuOptions): QemuDriver {
  const timeouts = options.timeouts ?? DEFAULT_TIMEOUTS;
  const watchdog = options.watchdog ?? DEFAULT_WATCHDOG;
  const warn = options.onWarning ?? (() => {});
  const sharedMemory = options.sharedMemory ?? createSharedMemory(DEFAULT_SHARED_MEMORY);
  const checks = createMemoryChecks();

  const machineOptions = async (): Promise<MachineOptions> => {
    const { accelerator } = options;
    return { accelerator, tscKhz: accelerator === 'tcg' ? await hostTscKhz() : undefined };
  };

  const launch = async (spec: QemuSpec, launchOptions: LaunchOptions): Promise<Microvm> =>
    start(spec, launchOptions, {
      args: qemuArguments(spec, await machineOptions()),
      readOnlyPaths: [spec.kernelPath, spec.initrdPath],
      inherited: [],
      keepsLogs: false,
      begin: (qmp, _handle, signal) => qmp.execute('cont', {}, { signal, timeoutMs: timeouts.commandMs }),
    });

  const restore = async (spec: RestoreSpec, launchOptions: LaunchOptions): Promise<Microvm> => {
    const { signal } = launchOptions;
    const { snapshot, memorySha256, stateSha256, delta } = spec;
    await checkFile(snapshot.statePath, stateSha256, signal);
    const opened: FileHandle[] = [];
    // While QEMU starts; what it is not waited for may fail unheard.
    const sound = Promise.all([
      checks.check(snapshot.memoryPath, memorySha256, signal),
      delta && checkFile(delta.path, delta.sha256, signal),
    ]);
    sound.catch(() => {});
    try {
      opened.push(
        spec.sharedMemory
          ? await sharedMemory.open(snapshot.memoryPath, signal)
          : await openOwn(snapshot.memoryPath, spec),
      );
      opened.push(await open(snapshot.statePath, constants.O_RDONLY | constants.O_NOFOLLOW));
      const memoryPath = `${INHERITED_DIR}/${FIRST_INHERITED}`;
      const stateFd = FIRST_INHERITED + 1;
      const source = { memoryPath, stateFd: delta === undefined ? stateFd : undefined };
      return await start(spec, launchOptions, {
        args: restoreArguments(spec, await machineOptions(), source),
        readOnlyPaths: [],
        inherited: opened.map(({ fd }) => fd),
        keepsLogs: spec.keepsLogs === true,
        begin: async (qmp, handle) => {
          await sound;
          if (delta !== undefined) {
            await putDelta(qmp, handle, spec, delta.path, { signal, timeoutMs: timeouts.commandMs });
            await qmp.execute(
              'migrate-incoming',
              { uri: incomingUri(stateFd) },
              { signal, timeoutMs: timeouts.commandMs },
            );
          }
          await untilLoaded(qmp, signal, timeouts.commandMs);
        },
      });
    } finally {
      for (const file of opened) await file.close();
    }
  };

  const start = async (
    spec: QemuSpec,
    { signal, onSpawned }: LaunchOptions,
    how: Start,
  ): Promise<Microvm> => {
    const program = options.binary ?? (await findProgram(QEMU_PROGRAM));
    const files = filesIn(spec.runDir);
    const releases: (() => unknown)[] = [];
    let log: AppendedLog | undefined;
    let handle: MicrovmHandle | undefined;
    let exit: ExitStatus | undefined;
    let isConnected = () => false;
    try {
      releases.push(() => takeBackRunDir(spec.runDir));
      releases.push(() => removeFiles(spec.runDir, 'not the logs'));
      await removeFiles(spec.runDir, how.keepsLogs ? 'not the logs' : 'logs too');
      await lendRunDir(spec.runDir, spec);
      log = await openAppendedLog(files.vmmLog, problemWith(files.vmmLog));
      releases.push(() => log?.close());
      releases.push(() => handle && killAll([handle, ...handle.wrappers]));
      const process = await launchConfined(
        {
          program,
          args: how.args,
          uid: spec.uid,
          gid: spec.gid,
          netns: spec.network?.netns,
          readOnlyPaths: [...how.readOnlyPaths, ...drivePaths(spec.drives, 'read-only')],
          writablePaths: [spec.runDir, ...drivePaths(spec.drives, 'writable')],
          devices: [
            ...(spec.network === undefined ? [] : ['/dev/net/tun']),
            ...(options.accelerator === 'kvm' ? ['/dev/kvm'] : []),
          ],
          devicesDir: options.devicesDir,
          stdout: log.fd,
          stderr: log.fd,
          inherited: how.inherited,
          maxFileBytes: await largestWritable(spec.drives),
        },
        {
          signal,
          onSpawned: async ({ pid, startTime }, wrappers) => {
            handle = { driver: 'qemu', pid, startTime, wrappers, runDir: spec.runDir };
            await onSpawned(handle);
          },
        },
      );
      const spawned = handle ?? handleOf(process, spec.runDir);
      void process.exited.then((status) => {
        exit = status;
      });
      const { qmp, console, announced } = await connect(spawned, () => exit !== undefined, signal);
      isConnected = qmp.isOpen;
      releases.push(
        () => qmp.close(),
        () => console.close(),
      );
      await takeBackRunDir(spec.runDir);
      await how.begin(qmp, spawned, signal);
      const microvm = createMicrovm({
        handle: spawned,
        qmp,
        console,
        log,
        announcedEnd: announced,
        processExited: process.exited,
        detachProcess: () => {},
      });
      return withWatchdog(microvm, watchdog, warn);
    } catch (error) {
      const told = await tellOfDeath(error, { log, exit: () => exit, isConnected, signal });
      await releaseAll(releases, warn);
      throw told;
    }
  };

  const problemWith = (path: string) => (error: unknown) =>
    warn(`Output is not kept in ${path} any more`, error);

  /** Both sockets, the QMP one ready for commands. On failure neither is open. */
  const connect = async (
    { runDir }: MicrovmHandle,
    isGone: () => boolean,
    signal: AbortSignal,
  ): Promise<{ qmp: QmpClient; console: OutputReader; announced: () => string | undefined }> => {
    const files = filesIn(runDir);
    const waiting = { timeoutMs: timeouts.socketMs, signal, isGone };
    let end: string | undefined;
    const socket = await connectTo(files.qmpSocket, waiting);
    if (socket === undefined) throw gone();
    const qmp = await openQmp(socket, {
      signal,
      // It listens before it has loaded the kernel, and answers afterwards.
      timeoutMs: timeouts.socketMs,
      onEvent: (event) => {
        end = announcedEnd(event) ?? end;
      },
    });
    try {
      const consoleSocket = await connectTo(files.consoleSocket, waiting);
      if (consoleSocket === undefined) throw gone();
      const console = await keepOutput(consoleSocket, files.consoleLog, problemWith(files.consoleLog));
      return { qmp, console, announced: () => end };
    } catch (error) {
      qmp.close();
      throw error;
    }
  };

  const adopt = async (handle: MicrovmHandle, signal: AbortSignal): Promise<Microvm> => {
    if (!(await isAlive(handle))) {
      await killAll(handle.wrappers);
      throw new WrennError('vmm_died', `The microVM's QEMU (process ${handle.pid}) is gone.`, {
        hint: `Its last words may be in ${filesIn(handle.runDir).vmmLog}.`,
      });
    }
    const watch = watchProcess(handle);
    let isGone = false;
    void watch.gone.then(() => {
      isGone = true;
    });
    const { vmmLog } = filesIn(handle.runDir);
    let log: AppendedLog | undefined;
    try {
      log = await openAppendedLog(vmmLog, problemWith(vmmLog));
      const { qmp, console, announced } = await connect(handle, () => isGone, signal);
      void qmp.closed.then(watch.hint);
      const microvm = createMicrovm({
        handle,
        qmp,
        console,
        log,
        announcedEnd: announced,
        processExited: watch.gone.then((): ExitStatus => ({ code: null, signal: null })),
        detachProcess: watch.stop,
      });
      return withWatchdog(microvm, watchdog, warn);
    } catch (error) {
      watch.stop();
      await log?.close();
      throw error;
    }
  };

  return {
    name: 'qemu',
    features: { pause: true, snapshot: true, delta: true, accelerator: options.accelerator },
    version: async (signal) => askVersion(options.binary ?? (await findProgram(QEMU_PROGRAM)), signal),
    launch,
    restore,
    forget: ({ memoryPath }) => sharedMemory.forget(memoryPath),
    close: () => sharedMemory.close(),
    adopt,
  };
}

/** Before the state: what QEMU finds of its queues in the guest's memory must be what the state is of. */
async function putDelta(
  qmp: QmpClient,
  handle: MicrovmHandle,
  { memoryMib }: RestoreSpec,
  path: string,
  limits: Limits,
): Promise<void> {
  const address = await memoryAddress(qmp, limits);
  await applyDelta(path, placeOf(handle, address, memoryMib), limits.signal);
}

/** The VMM is to map it, and it alone is what the VMM could spoil. */
async function openOwn(path: string, { uid, gid }: RestoreSpec): Promise<FileHandle> {
  const file = await open(path, constants.O_RDWR | constants.O_NOFOLLOW);
  try {
    await file.chown(uid, gid);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** A state that cannot be loaded ends QEMU, which is noticed elsewhere. */
async function untilLoaded(qmp: QmpClient, signal: AbortSignal, timeoutMs: number): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while ((await queryStatus(qmp, signal)) === 'inmigrate') {
    if (performance.now() > deadline) {
      throw new WrennError('deadline_exceeded', `QEMU did not load the state within ${timeoutMs} ms.`);
    }
    await sleep(LOAD_POLL_MS);
  }
}

async function askVersion(program: string, signal: AbortSignal): Promise<string> {
  const { stdout } = await runCommand(program, ['--version'], { timeoutMs: VERSION_TIMEOUT_MS, signal });
  const version = /^QEMU emulator version (\d{1,4}\.\d{1,4}\.\d{1,4})/.exec(stdout)?.[1];
  if (version !== undefined) return version;
  throw new WrennError('missing_program', `${program} is not QEMU.`, {
    hint: 'apt-get install qemu-system-x86',
  });
}

function handleOf({ pid, startTime, wrappers }: ConfinedProcess, runDir: string): MicrovmHandle {
  return { driver: 'qemu', pid, startTime, wrappers, runDir };
}

function gone(): WrennError {
  return new WrennError('vmm_died', 'QEMU is gone.');
}
