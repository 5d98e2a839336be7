/** Boots the laboratory's machine, streams its terminal, and tells how the command in it ended. */
import { spawn } from 'node:child_process';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LabImage } from '@wrenn/images';
import { WrennError } from '@wrenn/protocol';
import { emulatorOf, type MachineFiles } from './emulator.ts';
import type { Drives } from './kit.ts';

export interface LabRun {
  readonly image: LabImage;
  readonly drives: Drives;
  /** Has the drives, and is for the console, the status and the report. */
  readonly directory: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  /** The terminal's keys go to the machine. */
  readonly interactive: boolean;
  /** From the machine's being up until the command has ended. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  readonly onUp: (afterMs: number) => void;
}

export interface LabResult {
  readonly exitCode: number;
  /** What the command left in /run/report. */
  readonly report: string;
}

const UP_TIMEOUT_MS = 180_000;
const POWER_OFF_TIMEOUT_MS = 60_000;
/** A machine that is alive beats every 2 s; so long it is silent only when it hangs. */
const BEATS_TIMEOUT_MS = 120_000;
const POLL_MS = 100;
const CONSOLE_LINES_IN_ERROR = 20;
/**
 * Everything that is emulated, which has SVM with nested paging; four levels of page tables are enough, and quicker. No
 * fast string moves: told that there are, kernels zero and copy memory with them, and TCG does them byte by byte.
 */
const CPU = 'max,la57=off,erms=off,fsrm=off';
const FORBIDDEN = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny';

/**
 * Throws `vmm_died` and `guest_unreachable` when the machine itself ended or hung, which a nested guest can bring its
 * emulator to, and `deadline_exceeded` or `cancelled`. The machine is gone in each case.
 */
export async function runLab(run: LabRun): Promise<LabResult> {
  const files = filesIn(run.directory);
  for (const path of Object.values(files)) await writeFile(path, '');
  const { command, seen } = emulatorOf(run.image.emulatorPath, run);
  const [program = '', ...args] = command;
  const child = spawn(program, [...args, ...qemuArguments(run, seen)], {
    shell: false,
    stdio: [run.interactive ? 'inherit' : 'ignore', 'inherit', 'inherit'],
  });
  let ended: string | undefined;
  const gone = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      ended = error.message;
      resolve();
    });
    child.once('exit', (code, signal) => {
      ended = signal ?? `code ${code}`;
      resolve();
    });
  });

  /** Waits until the status fits; whatever else happens first is an error. */
  const waitFor = async (what: string, pattern: RegExp, timeoutMs: number): Promise<RegExpExecArray> => {
    const deadline = performance.now() + timeoutMs;
    let beats = -1;
    let lastBeatAt = performance.now();
    for (;;) {
      const over = ended;
      const found = pattern.exec(await readFile(files.status, 'utf8'));
      if (found !== null) return found;
      if (run.signal.aborted) throw new WrennError('cancelled', 'The laboratory was interrupted.');
      if (over !== undefined) {
        throw new WrennError('vmm_died', `The machine ended (${over}) before ${what}.${await said(files)}`);
      }
      const { size } = await stat(files.beats);
      if (size !== beats) [beats, lastBeatAt] = [size, performance.now()];
      else if (performance.now() - lastBeatAt > BEATS_TIMEOUT_MS) {
        throw new WrennError('guest_unreachable', `The machine hung before ${what}.${await said(files)}`);
      }
      if (performance.now() > deadline) {
        const seconds = timeoutMs / 1000;
        throw new WrennError('deadline_exceeded', `${what}: not within ${seconds} s.${await said(files)}`);
      }
      await sleep(POLL_MS);
    }
  };

  try {
    const startedAt = performance.now();
    await waitFor('it was up', /^up$/m, UP_TIMEOUT_MS);
    run.onUp(performance.now() - startedAt);
    const [, code] = await waitFor('the command had ended', /^exit (\d+)$/m, run.timeoutMs);
    await Promise.race([gone, sleep(POWER_OFF_TIMEOUT_MS, undefined, { ref: false })]);
    return { exitCode: Number(code), report: await readFile(files.report, 'utf8') };
  } finally {
    child.kill('SIGKILL');
    await gone;
  }
}

interface LabFiles {
  readonly console: string;
  readonly status: string;
  readonly report: string;
  readonly beats: string;
}

function filesIn(directory: string): LabFiles {
  const file = (name: string) => join(directory, name);
  return {
    console: file('console.log'),
    status: file('status'),
    report: file('report'),
    beats: file('beats'),
  };
}

async function said(files: LabFiles): Promise<string> {
  const lines = (await readFile(files.console, 'utf8')).trimEnd().split(/\r*\n/);
  return ` Its console ends with:\n${lines.slice(-CONSOLE_LINES_IN_ERROR).join('\n')}`;
}

function qemuArguments(run: LabRun, { image, drives, directory }: MachineFiles): string[] {
  const files = filesIn(directory);
  const drive = (id: string, path: string, readOnly: boolean): string[] => [
    '-blockdev',
    JSON.stringify({
      driver: 'raw',
      'node-name': id,
      'read-only': readOnly,
      file: { driver: 'file', filename: path, ...(readOnly ? { locking: 'off' } : {}) },
    }),
    '-device',
    `virtio-blk-pci,drive=${id}`,
  ];
  const port = (id: string, path: string): string[] => [
    '-chardev',
    `file,id=${id},path=${path}`,
    '-device',
    `virtserialport,chardev=${id},name=org.wrenn.lab.${id}`,
  ];
  return [
    '-nodefaults',
    '-no-user-config',
    '-no-reboot',
    ...['-display', 'none', '-sandbox', FORBIDDEN],
    ...['-machine', 'q35', '-accel', 'tcg,thread=multi,tb-size=1024', '-cpu', CPU],
    ...['-smp', String(run.vcpus), '-m', String(run.memoryMib)],
    ...['-kernel', image.kernelPath, '-initrd', image.initrdPath],
    ...['-append', 'console=ttyS0 quiet panic=-1 mitigations=off'],
    ...drive('machine', image.rootfsPath, true),
    ...drive('kit', drives.kit, true),
    ...drive('checkout', drives.checkout, true),
    ...drive('scratch', drives.scratch, false),
    ...['-device', 'virtio-rng-pci'],
    ...['-serial', `file:${files.console}`],
    ...['-device', 'virtio-serial-pci'],
    // Ctrl+C is for the shell in the machine when a person is at it, and ends the machine else.
    ...['-chardev', `stdio,id=terminal,signal=${run.interactive ? 'off' : 'on'}`],
    ...['-device', 'virtconsole,chardev=terminal'],
    ...port('status', files.status),
    ...port('report', files.report),
    ...port('beats', files.beats),
  ];
}
