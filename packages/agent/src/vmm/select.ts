/**
 * Which driver runs microVMs here, found out by booting. That /dev/kvm opens proves nothing: nested clouds
 * offer one on which no ordinary guest runs. So the real kernel is booted with it once, under a short
 * deadline, and the verdict is kept for as long as neither the host nor the kernel nor QEMU changes.
 */
import { access, mkdir, readFile, rm } from 'node:fs/promises';
import { release } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { writeFileDurably } from '@wrenn/host';
import { CONSOLE_INIT_STARTED, WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import type { DriverName, VmmDriver } from './driver.ts';
import { createFirecrackerDriver } from './firecracker/index.ts';
import { createQemuDriver } from './qemu/index.ts';

export interface SelectOptions {
  readonly preference: 'auto' | DriverName;
  /** WRENN_FIRECRACKER: an absolute path; `firecracker` in PATH if absent. */
  readonly firecrackerBinary: string | undefined;
  readonly probe: ProbeOptions;
  readonly onWarning: (message: string, cause: unknown) => void;
  readonly signal: AbortSignal;
}

export interface ProbeOptions {
  readonly kernelPath: string;
  readonly initrdPath: string;
  /** Where the verdict is kept, and below which the probe's own files lie while it runs. */
  readonly directory: string;
  readonly uid: number;
}

export interface Selection {
  readonly driver: VmmDriver;
  readonly version: string;
  /** One sentence. */
  readonly reason: string;
}

export interface KvmVerdict {
  readonly usable: boolean;
  /** One line: usable, absent, or that it opens but guests do not run, and why. */
  readonly reason: string;
}

const PROBE_DEADLINE_MS = 10_000;
const PROBE_POLL_MS = 20;
const PROBE_MEMORY_MIB = 128;
const CONSOLE_LINES = 500;

const verdictSchema = z.strictObject({ key: z.string(), usable: z.boolean(), reason: z.string() });

/** Throws `driver_unavailable` when the driver that was asked for cannot run here, `missing_program` without QEMU. */
export async function selectDriver(options: SelectOptions): Promise<Selection> {
  const { preference, signal, onWarning } = options;
  const kvm = await kvmVerdict(options.probe, signal);
  const firecracker = createFirecrackerDriver({
    onWarning,
    ...(options.firecrackerBinary === undefined ? {} : { binary: options.firecrackerBinary }),
  });
  if (preference === 'firecracker') {
    if (!kvm.usable) {
      throw new WrennError('driver_unavailable', `Firecracker needs KVM. ${kvm.reason}`, {
        hint: 'Set the driver to auto or qemu.',
        field: 'driver',
      });
    }
    return {
      driver: firecracker,
      version: await firecracker.version(signal),
      reason: 'The configuration asks for it.',
    };
  }
  if (preference === 'auto' && kvm.usable) {
    const version = await firecracker.version(signal).catch((error: unknown) => {
      if (error instanceof WrennError && error.code === 'missing_program') return undefined;
      throw error;
    });
    if (version !== undefined)
      return { driver: firecracker, version, reason: `${kvm.reason} Firecracker is installed.` };
  }
  const qemu = createQemuDriver({ accelerator: kvm.usable ? 'kvm' : 'tcg', onWarning });
  return { driver: qemu, version: await qemu.version(signal), reason: kvm.reason };
}

/** The verdict on KVM, from the file if it still applies, else by a boot. */
export async function kvmVerdict(options: ProbeOptions, signal: AbortSignal): Promise<KvmVerdict> {
  const absent = await access('/dev/kvm').then(
    () => false,
    () => true,
  );
  if (absent)
    return { usable: false, reason: 'KVM is absent: there is no /dev/kvm. Guests run in software.' };
  const path = join(options.directory, 'probe.json');
  const key = await keyOf(options, signal);
  const kept = await readVerdict(path);
  if (kept?.key === key) return { usable: kept.usable, reason: kept.reason };
  const verdict = await probe(options, signal);
  await mkdir(options.directory, { recursive: true });
  await writeFileDurably(path, `${JSON.stringify({ key, ...verdict })}\n`);
  return verdict;
}

/** The verdict that was found last, without looking whether it still applies; for doctor. */
export async function keptKvmVerdict(directory: string): Promise<KvmVerdict | undefined> {
  const kept = await readVerdict(join(directory, 'probe.json'));
  return kept && { usable: kept.usable, reason: kept.reason };
}

async function readVerdict(path: string): Promise<z.infer<typeof verdictSchema> | undefined> {
  try {
    return verdictSchema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch {
    // None yet, or not ours any more: it is found anew.
    return undefined;
  }
}

async function keyOf({ kernelPath }: ProbeOptions, signal: AbortSignal): Promise<string> {
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const qemu = await createQemuDriver({ accelerator: 'kvm' }).version(signal);
  // The kernel's directory is named after what is in it.
  return [dirname(kernelPath).split('/').at(-1), qemu, release(), bootId].join(' ');
}

/** Boots the real kernel with KVM and waits for init's first word; the guest has no drives and powers off. */
async function probe(options: ProbeOptions, signal: AbortSignal): Promise<KvmVerdict> {
  const runDir = join(options.directory, `probe-${process.pid}`);
  await mkdir(runDir, { recursive: true, mode: 0o700 });
  try {
    const microvm = await createQemuDriver({ accelerator: 'kvm' }).launch(
      {
        id: 'kvm-probe',
        vcpus: 1,
        memoryMib: PROBE_MEMORY_MIB,
        kernelPath: options.kernelPath,
        initrdPath: options.initrdPath,
        commandLine: [],
        drives: [],
        network: undefined,
        runDir,
        uid: options.uid,
        gid: options.uid,
      },
      { signal, onSpawned: async () => {} },
    );
    let ended: string | undefined;
    void microvm.exited.then(({ message, log }) => {
      ended = [message, ...log.slice(-1)].join(' ');
    });
    try {
      const deadline = performance.now() + PROBE_DEADLINE_MS;
      for (;;) {
        const lines = await microvm.consoleTail(CONSOLE_LINES);
        if (lines.some((line) => line.includes(CONSOLE_INIT_STARTED)))
          return { usable: true, reason: 'KVM is usable: a guest booted on it.' };
        if (ended !== undefined) return doesNotRun(ended);
        if (performance.now() > deadline)
          return doesNotRun(`init was not reached within ${PROBE_DEADLINE_MS} ms.`);
        await sleep(PROBE_POLL_MS, undefined, { signal });
      }
    } finally {
      await microvm.kill();
    }
  } catch (error) {
    if (signal.aborted) throw error;
    return doesNotRun(WrennError.from(error).message);
  } finally {
    await rm(runDir, { recursive: true, force: true });
  }
}

function doesNotRun(why: string): KvmVerdict {
  return {
    usable: false,
    reason: `/dev/kvm opens but guests do not run on it, so they run in software: ${why}`,
  };
}
