/** What idle sandboxes cost the host, as the kernel counts it. */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BenchAgent } from './bench-agent.ts';
import { median } from './samples.ts';

/** Of one sandbox: the VMM and all that stands between it and the agent. */
export interface IdleCost {
  /** What is shared counts in parts: with eight sandboxes an eighth each. */
  readonly pssMib: number;
  /** What would be free again without it. */
  readonly privateMib: number;
  /** What it maps and others map too, in whole. */
  readonly sharedMib: number;
  readonly cpuPercent: number;
}

/** Ticks of /proc/PID/stat in a second; the same on every Linux that Wrenn runs on. */
const TICKS_PER_SECOND = 100;

export async function idleCosts(
  agent: BenchAgent,
  ids: readonly string[],
  forMs: number,
): Promise<IdleCost[]> {
  const pids = await Promise.all(ids.map((id) => pidsOf(agent, id)));
  const ticks = () => Promise.all(pids.map(async (own) => sum(await Promise.all(own.map(cpuTicks)))));
  const before = await ticks();
  const startedAt = performance.now();
  await sleep(forMs);
  const seconds = (performance.now() - startedAt) / 1000;
  const after = await ticks();
  return Promise.all(
    pids.map(async (own, index) => {
      const rollups = await Promise.all(own.map((pid) => readFile(`/proc/${pid}/smaps_rollup`, 'utf8')));
      const mib = (...fields: string[]) =>
        sum(rollups.flatMap((text) => fields.map((field) => kib(text, field)))) / 1024;
      const used = (after[index] ?? 0) - (before[index] ?? 0);
      return {
        pssMib: mib('Pss'),
        privateMib: mib('Private_Clean', 'Private_Dirty'),
        sharedMib: mib('Shared_Clean', 'Shared_Dirty'),
        cpuPercent: (used / TICKS_PER_SECOND / seconds) * 100,
      };
    }),
  );
}

const PSS_TARGET_MIB = 80;
const CPU_TARGET_PERCENT = 1;

export function describeIdle(costs: readonly IdleCost[]): string[] {
  const of = (pick: (cost: IdleCost) => number) => median(costs.map(pick));
  const verdict = (value: number, target: number, unit: string) =>
    `${value.toFixed(1)} ${unit} (≤ ${target}: ${value <= target ? 'met' : 'missed'})`;
  return [
    `${costs.length} idle sandboxes, each: ${verdict(
      of(({ pssMib }) => pssMib),
      PSS_TARGET_MIB,
      'MiB PSS',
    )}, ` +
      `${of(({ privateMib }) => privateMib).toFixed(1)} MiB its own, ` +
      `${of(({ sharedMib }) => sharedMib).toFixed(1)} MiB shared; ` +
      `${verdict(
        of(({ cpuPercent }) => cpuPercent),
        CPU_TARGET_PERCENT,
        '% of a core',
      )}`,
  ];
}

async function pidsOf(agent: BenchAgent, id: string): Promise<number[]> {
  const { handle } = await agent.journalOf(id);
  if (handle === null) throw new Error(`sandbox ${id} has no VMM`);
  return [handle.pid, ...handle.wrappers.map(({ pid }) => pid)];
}

/** utime and stime, counted from behind the program's name, which may contain anything. */
async function cpuTicks(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

function kib(text: string, field: string): number {
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? Number.NaN);
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
