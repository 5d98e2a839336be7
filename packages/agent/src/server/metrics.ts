/** Counters, gauges and histograms as Prometheus text (format 0.0.4). Names and labels are all our own. */
import type { ErrorCode } from '@wrenn/protocol';
import type { Observer } from '../sandbox/log.ts';
import { SANDBOX_STATES } from '../sandbox/states.ts';
import type { SandboxView } from '../sandbox/view.ts';

export interface Metrics {
  readonly observer: Observer;
  requestEnded(method: string, code: ErrorCode | 'ok'): void;
  /** The text, with gauges made of what there is now. */
  render(sandboxes: readonly SandboxView[]): string;
}

const BUCKETS_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export function createMetrics(): Metrics {
  const created = counter('wrenn_sandboxes_created_total', 'Sandboxes created.');
  const createFailed = counter(
    'wrenn_sandbox_create_failures_total',
    'Creations that failed, by error code.',
  );
  const failed = counter('wrenn_sandboxes_failed_total', 'VMMs that ended by themselves.');
  const destroyed = counter('wrenn_sandboxes_destroyed_total', 'Sandboxes of which nothing is left.');
  const adopted = counter('wrenn_sandboxes_adopted_total', 'Sandboxes taken over from an earlier agent.');
  const cleanupFailed = counter(
    'wrenn_cleanup_failures_total',
    'Things that could not be taken away, by step.',
  );
  const execs = counter('wrenn_execs_total', 'Commands begun.');
  const requests = counter('wrenn_requests_total', 'Requests that have ended, by method and error code.');
  const phases = histogram('wrenn_create_phase_seconds', 'How long each phase of a creation took.', 'phase');

  return {
    observer: {
      created: (measured) => {
        created.add('');
        for (const { name, durationMs } of measured) phases.observe(name, durationMs / 1000);
        phases.observe('total', measured.reduce((sum, { durationMs }) => sum + durationMs, 0) / 1000);
      },
      createFailed: (code) => createFailed.add(`{code="${code}"}`),
      failed: () => failed.add(''),
      destroyed: () => destroyed.add(''),
      adopted: () => adopted.add(''),
      cleanupFailed: (step) => cleanupFailed.add(`{step="${step}"}`),
      execStarted: () => execs.add(''),
    },
    requestEnded: (method, code) => requests.add(`{method="${method}",code="${code}"}`),
    render: (sandboxes) => {
      const all = [created, createFailed, failed, destroyed, adopted, cleanupFailed, execs, requests, phases];
      const lines = all.flatMap((metric) => metric.lines());
      lines.push(...head('wrenn_sandboxes', 'gauge', 'Sandboxes in the list, by state.'));
      for (const state of SANDBOX_STATES) {
        const count = sandboxes.filter((sandbox) => sandbox.state === state).length;
        lines.push(`wrenn_sandboxes{state="${state}"} ${count}`);
      }
      lines.push(...head('wrenn_agent_resident_bytes', 'gauge', 'Memory of the agent itself.'));
      lines.push(`wrenn_agent_resident_bytes ${process.memoryUsage.rss()}`);
      return `${lines.join('\n')}\n`;
    },
  };
}

function head(name: string, type: string, help: string): string[] {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`];
}

function counter(name: string, help: string) {
  const values = new Map<string, number>();
  return {
    add: (labels: string): void => {
      values.set(labels, (values.get(labels) ?? 0) + 1);
    },
    lines: (): string[] => [
      ...head(name, 'counter', help),
      ...[...values].map(([labels, value]) => `${name}${labels} ${value}`),
    ],
  };
}

function histogram(name: string, help: string, label: string) {
  const series = new Map<string, { readonly buckets: number[]; sum: number; count: number }>();
  const linesOf = (value: string): string[] => {
    const found = series.get(value);
    if (found === undefined) return [];
    const { buckets, sum, count } = found;
    return [
      ...BUCKETS_S.map((le, i) => `${name}_bucket{${label}="${value}",le="${le}"} ${buckets[i] ?? 0}`),
      `${name}_bucket{${label}="${value}",le="+Inf"} ${count}`,
      `${name}_sum{${label}="${value}"} ${sum}`,
      `${name}_count{${label}="${value}"} ${count}`,
    ];
  };
  return {
    observe: (value: string, seconds: number): void => {
      const found = series.get(value) ?? { buckets: BUCKETS_S.map(() => 0), sum: 0, count: 0 };
      series.set(value, found);
      found.sum += seconds;
      found.count++;
      BUCKETS_S.forEach((le, i) => {
        if (seconds <= le) found.buckets[i] = (found.buckets[i] ?? 0) + 1;
      });
    },
    lines: (): string[] => [...head(name, 'histogram', help), ...[...series.keys()].flatMap(linesOf)],
  };
}
