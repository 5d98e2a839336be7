/** A running microVM, as the rest of the agent sees it. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { WrennError } from '@wrenn/protocol';
import { soon } from '../../signals/soon.ts';
import type { ExitReason, Microvm, MicrovmHandle } from '../driver.ts';
import type { OutputReader } from '../output.ts';
import { killAll } from '../processes.ts';
import type { ExitStatus } from '../wrapped-process.ts';
import type { FirecrackerApi } from './api.ts';
import { describeEnd } from './exit-reason.ts';
import { JAIL_DIR } from './jail.ts';
import { writeSnapshot } from './snapshot.ts';

export const LOG_LINES = 20;
const CONSOLE_LINES_IN_DIAGNOSIS = 40;
/** For the last words of a VMM that is gone; its FIFOs end by themselves unless a wrapper lingers. */
const LAST_WORDS_MS = 1_000;

export interface MicrovmFiles {
  readonly socket: string;
  readonly console: { readonly fifo: string; readonly file: string };
  readonly log: { readonly fifo: string; readonly file: string };
}

/** What a run directory holds; `console.log` and `vmm.log` stay for people after the VMM is gone. */
export function filesIn(runDir: string): MicrovmFiles {
  return {
    socket: join(runDir, 'api.sock'),
    console: { fifo: join(runDir, 'console.fifo'), file: join(runDir, 'console.log') },
    log: { fifo: join(runDir, 'vmm.fifo'), file: join(runDir, 'vmm.log') },
  };
}

export interface MicrovmParts {
  readonly handle: MicrovmHandle;
  readonly api: FirecrackerApi;
  /** Resolves when the process is gone; never rejects. */
  readonly processExited: Promise<ExitStatus>;
  /** Missing where the output could not be opened; the microVM is no worse for it. */
  readonly console: OutputReader | undefined;
  readonly log: OutputReader | undefined;
  /** Stops watching the process. */
  readonly detachProcess: () => void;
}

export function createMicrovm(parts: MicrovmParts): Microvm {
  const { handle, api } = parts;
  /** Of a process that is gone: what it has printed last is in its FIFOs. */
  const readToTheEnd = async (): Promise<void> => {
    const read = Promise.all([parts.console?.ended, parts.log?.ended]);
    await soon(read, LAST_WORDS_MS);
    parts.console?.close();
    parts.log?.close();
  };
  const exited = parts.processExited.then(async (status): Promise<ExitReason> => {
    await readToTheEnd();
    const log = parts.log?.tail(LOG_LINES) ?? [];
    return { message: describeEnd(status, log), log };
  });
  let killing: Promise<void> | undefined;

  const kill = async (): Promise<void> => {
    await killAll([handle, ...handle.wrappers]);
    // One that sleeps now will go on in the same console.
    await readToTheEnd();
    await removeFiles(handle.runDir, 'not the logs');
  };

  return {
    handle,
    exited,
    async status(signal) {
      const { state } = await api.describeInstance(signal);
      if (state === 'Running') return 'running';
      if (state === 'Paused') return 'paused';
      throw new WrennError('vmm_api_error', 'Firecracker runs, but its guest was never started.', {
        hint: 'The sandbox was being created when the agent ended; destroy it.',
      });
    },
    snapshot: (files, options) => writeSnapshot(api, handle, files, options),
    pause: (signal) => api.patchVm('Paused', signal),
    resume: (signal) => api.patchVm('Resumed', signal),
    consoleTail: async (maxLines) => parts.console?.tail(maxLines) ?? [],
    async diagnose(signal) {
      const instance = await api.describeInstance(signal).then(
        ({ state, vmm_version }) => `Firecracker ${vmm_version} says: ${state}`,
        (error: unknown) => `Firecracker says nothing: ${WrennError.from(error).message}`,
      );
      return [
        instance,
        '--- log of the VMM',
        ...(parts.log?.tail(LOG_LINES) ?? []),
        '--- console of the guest',
        ...(parts.console?.tail(CONSOLE_LINES_IN_DIAGNOSIS) ?? []),
      ].join('\n');
    },
    async kill() {
      killing ??= kill();
      try {
        await killing;
      } catch (error) {
        killing = undefined;
        throw error;
      }
    },
    detach() {
      parts.detachProcess();
      parts.console?.close();
      parts.log?.close();
    },
  };
}

/** Socket, FIFOs and jail are of no use once the process is gone; the logs may be. */
export async function removeFiles(runDir: string, extent: 'not the logs' | 'logs too'): Promise<void> {
  const { socket, console, log } = filesIn(runDir);
  const paths = [socket, console.fifo, log.fifo];
  if (extent === 'logs too') paths.push(console.file, log.file);
  await Promise.all(paths.map((path) => rm(path, { force: true })));
  await rm(join(runDir, JAIL_DIR), { recursive: true, force: true });
}
