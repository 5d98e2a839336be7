/** What the machine has to give, or the container that this process is in. */
import { readFile } from 'node:fs/promises';
import { availableParallelism, totalmem } from 'node:os';

export interface MachineFacts {
  readonly vcpus: number;
  readonly memoryMib: number;
  /** Changes with every boot of the kernel. */
  readonly bootId: string;
}

export async function machineFacts(): Promise<MachineFacts> {
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  // Zero or beyond all memory where there is no cgroup limit.
  const limitBytes = process.constrainedMemory() || Number.POSITIVE_INFINITY;
  return {
    vcpus: Math.max(1, Math.min(availableParallelism(), await cpuQuota())),
    memoryMib: Math.floor(Math.min(totalmem(), limitBytes) / (1024 * 1024)),
    bootId,
  };
}

/** Whole CPUs that the cgroup may use; infinite without a limit, or where that is not cgroup v2. */
async function cpuQuota(): Promise<number> {
  try {
    return parseCpuMax(await readFile('/sys/fs/cgroup/cpu.max', 'utf8'));
  } catch {
    // The root cgroup has no such file, and cgroup v1 neither.
    return Number.POSITIVE_INFINITY;
  }
}

/** Parses cgroup v2's cpu.max, `quota period` in microseconds or `max period`, and rounds up to whole CPUs. */
export function parseCpuMax(text: string): number {
  const [quota, period] = text.trim().split(' ').map(Number);
  if (quota === undefined || period === undefined || !(quota > 0) || !(period > 0)) {
    return Number.POSITIVE_INFINITY;
  }
  return Math.ceil(quota / period);
}

/** What could be used without swapping, as the kernel estimates it. */
export async function availableMemoryMib(): Promise<number> {
  const found = /^MemAvailable:\s+(\d{1,15}) kB$/m.exec(await readFile('/proc/meminfo', 'utf8'));
  return Math.floor(Number(found?.[1] ?? 0) / 1024);
}
