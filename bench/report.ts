/** What was measured, as a table for people and as JSON for everything else. */
import { cpus, loadavg, release, totalmem } from 'node:os';
import type { AgentClient } from '@wrenn/agent';
import { median } from './samples.ts';

export interface Measurement {
  readonly what: string;
  readonly samplesMs: readonly number[];
  /** Absent where nothing simpler does the same. */
  readonly floor?: { readonly what: string; readonly samplesMs: readonly number[] };
  /** Time over the floor's at most, speed over the floor's at least, or so much more time than the floor at most. */
  readonly target?:
    | { readonly kind: 'time' | 'speed'; readonly ratio: number }
    | { readonly kind: 'extra'; readonly ms: number };
  /** How much was moved; speeds are told instead of times then. */
  readonly sizeBytes?: number;
}

export interface Row {
  readonly what: string;
  readonly unit: 'ms' | 'MiB/s';
  readonly median: number;
  readonly floor: number | undefined;
  readonly ratio: number | undefined;
  readonly target: string | undefined;
  readonly met: boolean | undefined;
}

export function rowOf({ what, samplesMs, floor, target, sizeBytes }: Measurement): Row {
  const shown = (ms: number) => (sizeBytes === undefined ? ms : sizeBytes / 1024 / 1024 / (ms / 1000));
  const value = shown(median(samplesMs));
  const floorValue = floor === undefined ? undefined : shown(median(floor.samplesMs));
  const ratio = floorValue === undefined ? undefined : value / floorValue;
  const met =
    floorValue === undefined || ratio === undefined || target === undefined
      ? undefined
      : target.kind === 'extra'
        ? value - floorValue <= target.ms
        : target.kind === 'time'
          ? ratio <= target.ratio
          : ratio >= target.ratio;
  const unit = sizeBytes === undefined ? 'ms' : 'MiB/s';
  return { what, unit, median: value, floor: floorValue, ratio, target: describeTarget(target), met };
}

function describeTarget(target: Measurement['target']): string | undefined {
  if (target === undefined) return undefined;
  if (target.kind === 'extra') return `≤ +${target.ms} ms`;
  return `${target.kind === 'speed' ? '≥' : '≤'} ${target.ratio.toFixed(2)}`;
}

export function table(measurements: readonly Measurement[]): string {
  const head = ['', 'median', 'floor', 'ratio', 'target', ''];
  const lines = measurements.map((measurement) => {
    const { what, unit, median: value, floor, ratio, target, met } = rowOf(measurement);
    const number = (n: number) => `${n.toFixed(n < 10 ? 2 : n < 1000 ? 1 : 0)} ${unit}`;
    return [
      what,
      number(value),
      floor === undefined ? '' : number(floor),
      ratio === undefined ? '' : ratio.toFixed(2),
      target ?? '',
      met === undefined ? '' : met ? 'met' : 'missed',
    ];
  });
  const all = [head, ...lines];
  const widths = head.map((_, column) => Math.max(...all.map((line) => (line[column] ?? '').length)));
  const aligned = (cell: string, column: number) =>
    column === 0 || column === 5 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0);
  return all.map((line) => line.map(aligned).join('  ').trimEnd()).join('\n');
}

/** The machine as it was, its load included: a ratio is only as good as the quiet it was taken in. */
export async function describeMachine(client: AgentClient, loadBefore: readonly number[]) {
  const { driver, accelerator, driverVersion, version } = await client.agent.getInfo(
    {},
    { timeoutMs: 10_000 },
  );
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryMib: Math.round(totalmem() / 1024 / 1024),
    kernel: release(),
    node: process.versions.node,
    wrenn: version,
    driver: `${driver} ${driverVersion} (${accelerator})`,
    loadBefore,
    loadAfter: loadavg(),
  };
}
