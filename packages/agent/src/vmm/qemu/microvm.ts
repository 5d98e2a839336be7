/** A running microVM, as the rest of the agent sees it. */
import { readdir, rm } from 'node:fs/promises';
import { basename } from 'node:path';
import { hasErrno } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import { soon } from '../../signals/soon.ts';
import type { AppendedLog } from '../appended-log.ts';
import type { ExitReason, Microvm, MicrovmHandle } from '../driver.ts';
import type { OutputReader } from '../output.ts';
import { printable } from '../printable.ts';
import { killAll } from '../processes.ts';
import type { ExitStatus } from '../wrapped-process.ts';
import { filesIn } from './arguments.ts';
import { describeExit } from './exit-reason.ts';
import type { QmpClient } from './qmp.ts';
import { writeSnapshot } from './snapshot.ts';

const LOG_LINES = 20;
const CONSOLE_LINES_IN_DIAGNOSIS = 40;
const REGISTERS_SHOWN_CHARS = 4_000;
/** The last events and the last of the console arrive with the end of the process, give or take. */
const LAST_WORDS_MS = 500;

/** `stop` waits for requests that disks still have in flight. */
const PAUSE_TIMEOUT_MS = 15_000;
const QUERY_TIMEOUT_MS = 5_000;

export interface MicrovmParts {
  readonly handle: MicrovmHandle;
  readonly qmp: QmpClient;
  /** What QEMU said of its coming end, if it did. */
  readonly announcedEnd: () => string | undefined;
  readonly console: OutputReader;
  readonly log: AppendedLog;
  /** Resolves when the process is gone; never rejects. */
  readonly processExited: Promise<ExitStatus>;
  /** Stops watching the process. */
  readonly detachProcess: () => void;
}

const statusSchema = z.object({ status: z.string() });

export async function queryStatus(qmp: QmpClient, signal: AbortSignal): Promise<string> {
  const answer = await qmp.execute('query-status', {}, { signal, timeoutMs: QUERY_TIMEOUT_MS });
  const parsed = statusSchema.safeParse(answer);
  if (parsed.success) return parsed.data.status;
  throw new WrennError('vmm_api_error', 'QEMU answered query-status with something unexpected.', {
    cause: parsed.error,
  });
}

export function createMicrovm(parts: MicrovmParts): Microvm {
  const { handle, qmp, console, log } = parts;

  const letGo = async (): Promise<void> => {
    qmp.close();
    console.close();
    await log.close();
  };
  const exited = parts.processExited.then(async (status): Promise<ExitReason> => {
    const heard = Promise.all([qmp.closed, console.ended]);
    await soon(heard, LAST_WORDS_MS);
    const lines = await log.tail(LOG_LINES).catch(() => []);
    await letGo();
    return { message: describeExit(status, parts.announcedEnd()), log: lines };
  });

  const monitor = async (commandLine: string, signal: AbortSignal): Promise<string> => {
    const answer = await qmp.execute(
      'human-monitor-command',
      { 'command-line': commandLine },
      { signal, timeoutMs: QUERY_TIMEOUT_MS },
    );
    return typeof answer === 'string' ? answer : '';
  };

  let killing: Promise<void> | undefined;
  const kill = async (): Promise<void> => {
    await killAll([handle, ...handle.wrappers]);
    await letGo();
    await removeFiles(handle.runDir, 'not the logs');
  };

  return {
    handle,
    exited,
    async status(signal) {
      const status = await queryStatus(qmp, signal);
      if (status === 'running' || status === 'paused') return status;
      throw new WrennError('vmm_api_error', `QEMU says of the guest: ${printable(status, 40)}.`, {
        hint:
          status === 'prelaunch'
            ? 'The microVM was being started when the agent ended; destroy the sandbox.'
            : 'It cannot go on; destroy the sandbox.',
      });
    },
    async pause(signal) {
      await qmp.execute('stop', {}, { signal, timeoutMs: PAUSE_TIMEOUT_MS });
    },
    async resume(signal) {
      await qmp.execute('cont', {}, { signal, timeoutMs: PAUSE_TIMEOUT_MS });
    },
    snapshot: (files, options) => writeSnapshot(qmp, handle, files, options),
    consoleTail: async (maxLines) => console.tail(maxLines),
    async diagnose(signal) {
      const orWhyNot = (text: Promise<string>): Promise<string> =>
        text.catch((error: unknown) => WrennError.from(error).message);
      const registers = orWhyNot(monitor('info registers -a', signal));
      return [
        `status: ${printable(await orWhyNot(queryStatus(qmp, signal)), 100)}`,
        '--- registers',
        ...(await registers)
          .slice(0, REGISTERS_SHOWN_CHARS)
          .split(/\r?\n/)
          .map((line) => printable(line)),
        '--- log of the VMM',
        ...(await log.tail(LOG_LINES).catch(() => [])),
        '--- console of the guest',
        ...console.tail(CONSOLE_LINES_IN_DIAGNOSIS),
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
      qmp.close();
      console.close();
      log.close().catch(() => {});
    },
  };
}

/** Sockets are of no use once the process is gone; the logs may be. What an earlier VMM left might be links. */
export async function removeFiles(runDir: string, extent: 'not the logs' | 'logs too'): Promise<void> {
  const { qmpSocket, consoleSocket, consoleLog, vmmLog, state } = filesIn(runDir);
  const paths = [qmpSocket, consoleSocket, state, ...(extent === 'logs too' ? [consoleLog, vmmLog] : [])];
  // Mostly there is nothing, and to be told that for each of them takes far longer.
  const there = new Set(await namesIn(runDir));
  await Promise.all(
    paths.filter((path) => there.has(basename(path))).map((path) => rm(path, { force: true })),
  );
}

async function namesIn(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return [];
    throw error;
  }
}
