/** GET /metrics: what this machine uses, read when asked. Field names are E2B's. */
import { readFileSync } from 'node:fs';
import type { Libc } from '../sys/libc.ts';
import { json } from './respond.ts';

export interface CpuTimes {
  readonly count: number;
  /** In clock ticks, over all CPUs since boot. */
  readonly busy: number;
  readonly total: number;
}

export interface MemoryUse {
  readonly totalBytes: number;
  readonly usedBytes: number;
  readonly cacheBytes: number;
}

const MIB = 1024 * 1024;

/** The CPU figure is that since the last request; since boot for the first. */
export function createMetrics(libc: Libc): () => Response {
  let last: CpuTimes = { count: 0, busy: 0, total: 0 };
  return () => {
    const cpu = parseCpuTimes(readFileSync('/proc/stat', 'utf8'));
    const memory = parseMemory(readFileSync('/proc/meminfo', 'utf8'));
    const disk = libc.statfs('/');
    const usedPercent = cpuPercent(last, cpu);
    last = cpu;
    return json({
      ts: Math.floor(Date.now() / 1000),
      cpu_count: cpu.count,
      cpu_used_pct: usedPercent,
      mem_total: memory.totalBytes,
      mem_used: memory.usedBytes,
      mem_cache: memory.cacheBytes,
      mem_total_mib: Math.floor(memory.totalBytes / MIB),
      mem_used_mib: Math.floor(memory.usedBytes / MIB),
      disk_used: disk.totalBytes - disk.availableBytes,
      disk_total: disk.totalBytes,
    });
  };
}

/** From 0 to 100 over all CPUs, with two decimals. */
export function cpuPercent(before: CpuTimes, after: CpuTimes): number {
  const total = after.total - before.total;
  if (total <= 0) return 0;
  const percent = (100 * (after.busy - before.busy)) / total;
  return Math.min(100, Math.max(0, Math.round(percent * 100) / 100));
}

/** From /proc/stat: idle and iowait are not busy; guest times are in user's already. */
export function parseCpuTimes(text: string): CpuTimes {
  const lines = text.split('\n');
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] = (
    lines.find((line) => line.startsWith('cpu ')) ?? ''
  )
    .split(/\s+/)
    .slice(1)
    .map(Number);
  const busy = user + nice + system + irq + softirq + steal;
  return { count: lines.filter((line) => /^cpu\d/.test(line)).length, busy, total: busy + idle + iowait };
}

/** From /proc/meminfo. Used is what could not be had even by giving caches up. */
export function parseMemory(text: string): MemoryUse {
  const bytes = (name: string) => {
    const [, kibibytes] = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text) ?? [];
    return Number(kibibytes ?? 0) * 1024;
  };
  const totalBytes = bytes('MemTotal');
  return { totalBytes, usedBytes: totalBytes - bytes('MemAvailable'), cacheBytes: bytes('Cached') };
}
