/**
 * Whether KVM runs guests on this machine. That /dev/kvm opens proves nothing (nested clouds, paravirtual
 * variants of KVM), so the real kernel is booted once, under a short deadline, and the verdict kept until
 * something that it depends on changes.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { lchown, mkdir, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { writeFileDurably } from '@wrenn/host';
import { CONSOLE_INIT_STARTED, WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import { bootMicrovm } from './boot.ts';
import type { Microvm } from './driver.ts';
import { printable } from './printable.ts';
import { createQemuDriver } from './qemu/index.ts';

export interface KvmProbeOptions {
  readonly kernelPath: string;
  readonly initrdPath: string;
  /** Where the verdict is kept and the probe's microVM has its files. */
  readonly directory: string;
  /** Of the probe's VMM; nobody else's. */
  readonly uid: number;
  /** How long the guest may take to reach its init. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  readonly onWarning?: (message: string, cause: unknown) => void;
}

export interface KvmVerdict {
  readonly usable: boolean;
  /** In one line, for people: `usable`, or why not. */
  readonly reason: string;
}

export const VERDICT_FILE = 'probe.json';
const DEVICE = '/dev/kvm';
const POLL_MS = 20;
const MEMORY_MIB = 128;
const CONSOLE_LINES = 500;
const REASON_CHARS = 300;

/** What the verdict depends on. */
const keySchema = z.strictObject({
  kernelSha256: z.string(),
  initrdSha256: z.string(),
  qemuVersion: z.string(),
  hostKernel: z.string(),
  hostBootId: z.string(),
  cpuModel: z.string(),
});
const fileSchema = z.object({ key: keySchema, usable: z.boolean(), reason: z.string() });

/** Throws `missing_program` where QEMU is not installed (and there is a KVM to try), and `cancelled`. */
export async function probeKvm(options: KvmProbeOptions): Promise<KvmVerdict> {
  const unopened = await whyNotOpened();
  if (unopened !== undefined) return { usable: false, reason: unopened };
  const file = join(options.directory, VERDICT_FILE);
  const key = await findKey(options);
  const known = await readVerdict(file);
  if (known !== undefined && JSON.stringify(known.key) === JSON.stringify(key)) {
    return { usable: known.usable, reason: known.reason };
  }
  const { verdict, lasting } = await bootOnce(options);
  if (lasting) {
    await writeFileDurably(file, `${JSON.stringify({ key, ...verdict }, undefined, 2)}\n`);
  }
  return verdict;
}

/** The verdict found last, whether or not it still applies; for those that must not try. */
export async function keptKvmVerdict(directory: string): Promise<KvmVerdict | undefined> {
  const kept = await readVerdict(join(directory, VERDICT_FILE));
  return kept && { usable: kept.usable, reason: kept.reason };
}

/** Undefined where the device can be opened, which is where the question begins. */
export async function whyNotOpened(): Promise<string | undefined> {
  try {
    await (await open(DEVICE, 'r+')).close();
    return undefined;
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown error';
    if (code === 'ENOENT') return `absent (${DEVICE} does not exist)`;
    return `${DEVICE} cannot be opened (${code})`;
  }
}

async function findKey(options: KvmProbeOptions): Promise<z.output<typeof keySchema>> {
  const [kernelSha256, initrdSha256, qemuVersion, bootId] = await Promise.all([
    sha256Of(options.kernelPath),
    sha256Of(options.initrdPath),
    createQemuDriver({ accelerator: 'kvm' }).version(options.signal),
    readFile('/proc/sys/kernel/random/boot_id', 'utf8'),
  ]);
  const cpuModel = cpus()[0]?.model ?? 'unknown';
  return {
    kernelSha256,
    initrdSha256,
    qemuVersion,
    hostKernel: release(),
    hostBootId: bootId.trim(),
    cpuModel,
  };
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}

/** Undefined when there is none, or none that can be read: then it is found out again. */
async function readVerdict(file: string): Promise<z.output<typeof fileSchema> | undefined> {
  try {
    const parsed = fileSchema.safeParse(JSON.parse(await readFile(file, 'utf8')));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined;
  }
}

/** The initrd without drives says that init started and powers off, which is success as well. */
async function bootOnce(options: KvmProbeOptions): Promise<{ verdict: KvmVerdict; lasting: boolean }> {
  const { signal, kernelPath, initrdPath, uid, timeoutMs, onWarning } = options;
  await mkdir(options.directory, { recursive: true });
  const runDir = await mkdtemp(join(options.directory, 'probe-'));
  let started = false;
  const ready = async (microvm: Microvm, attempt: AbortSignal): Promise<void> => {
    while (!started) {
      started = (await microvm.consoleTail(CONSOLE_LINES)).some((line) =>
        line.includes(CONSOLE_INIT_STARTED),
      );
      if (!started) await sleep(POLL_MS, undefined, { signal: attempt });
    }
  };
  try {
    const driver = createQemuDriver({
      accelerator: 'kvm',
      ...(onWarning === undefined ? {} : { onWarning }),
    });
    const spec = {
      id: 'kvm-probe',
      vcpus: 1,
      memoryMib: MEMORY_MIB,
      kernelPath,
      initrdPath,
      commandLine: [],
      drives: [],
      network: undefined,
      runDir,
      uid,
      gid: uid,
    };
    const onSpawned = async (): Promise<void> => {};
    const microvm = await bootMicrovm(driver, spec, {
      signal,
      onSpawned,
      ready,
      bootDeadlineMs: timeoutMs,
      attempts: 1,
      onAttemptFailed: (_, diagnosis) => {
        started ||= diagnosis.includes(CONSOLE_INIT_STARTED);
      },
    });
    await microvm.kill();
    return USABLE;
  } catch (error) {
    if (started) return USABLE;
    const failure = WrennError.from(error);
    if (signal.aborted || failure.code === 'missing_program') throw failure;
    const reason = printable(`opens but guests do not run: ${failure.message}`, REASON_CHARS);
    const lasting = failure.code === 'boot_timeout' || failure.code === 'vmm_died';
    return { verdict: { usable: false, reason }, lasting };
  } finally {
    await lchown(runDir, 0, 0);
    await rm(runDir, { recursive: true, force: true });
  }
}

const USABLE = { verdict: { usable: true, reason: 'usable' }, lasting: true } as const;
