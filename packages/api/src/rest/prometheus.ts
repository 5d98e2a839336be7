/** What the API counts about itself. A registry of its own: nothing is global. */
import { readdirSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { AgentSandbox } from '../agent-client/index.ts';

export interface ApiMetrics {
  answered(method: string, route: string, status: number, durationMs: number): void;
  /** The client went away before its answer. */
  aborted(): void;
  text(): Promise<string>;
}

const DELAY_RESOLUTION_MS = 20;
const BUCKETS_S = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** Where the figures come from that are read when somebody asks. */
export interface MetricsSources {
  readonly version: string;
  sandboxes(): Iterable<AgentSandbox>;
  inFlight(): number;
  edge(): { readonly open: number; readonly requests: number; readonly refused: number };
  /** One too many for their address. */
  refusedConnections(): number;
  /** Whether the agent answered when it was last asked for its list. */
  agentAnswers(): boolean;
}

export function createApiMetrics(sources: MetricsSources): ApiMetrics {
  const registry = new Registry();
  const registers = [registry];
  const requests = new Counter({
    name: 'wrenn_api_requests_total',
    help: 'Requests that were answered.',
    labelNames: ['method', 'route', 'status'],
    registers,
  });
  const durations = new Histogram({
    name: 'wrenn_api_request_duration_seconds',
    help: 'From the request’s head to the end of the answer.',
    labelNames: ['method', 'route'],
    buckets: BUCKETS_S,
    registers,
  });
  const aborted = new Counter({
    name: 'wrenn_api_requests_aborted_total',
    help: 'Requests whose client went away before the answer, or was cut off.',
    registers,
  });
  const gauges: Gauge = new Gauge({
    name: 'wrenn_api_sandboxes',
    help: 'Sandboxes that the agent has.',
    labelNames: ['state'],
    registers,
    collect: () => {
      gauges.reset();
      // None of them is a figure, too.
      for (const state of ['running', 'hibernated']) gauges.set({ state }, 0);
      for (const { state } of sources.sandboxes()) gauges.inc({ state });
    },
  });
  const waiting: Gauge = new Gauge({
    name: 'wrenn_api_requests_in_flight',
    help: 'Requests that wait for their answer.',
    registers,
    collect: () => waiting.set(sources.inFlight()),
  });
  const read = (name: string, help: string, value: () => number): void => {
    const gauge: Gauge = new Gauge({ name, help, registers, collect: () => gauge.set(value()) });
  };
  read('wrenn_api_agent_up', 'Whether the host agent answers.', () => Number(sources.agentAnswers()));
  read(
    'wrenn_edge_connections',
    'Requests and websockets that are being passed on.',
    () => sources.edge().open,
  );
  const counted = (name: string, help: string, value: () => number): void => {
    const counter: Counter = new Counter({
      name,
      help,
      registers,
      collect: () => {
        counter.reset();
        counter.inc(value());
      },
    });
  };
  counted('wrenn_edge_requests_total', 'Requests for a sandbox’s port.', () => sources.edge().requests);
  counted('wrenn_edge_refused_total', 'Those that no guest has answered.', () => sources.edge().refused);
  counted(
    'wrenn_api_connections_refused_total',
    'Connections that were too many for their address.',
    sources.refusedConnections,
  );
  read('wrenn_api_resident_memory_bytes', 'Of the API’s process.', () => process.memoryUsage.rss());
  read('wrenn_api_heap_used_bytes', 'Of the API’s JavaScript.', () => process.memoryUsage().heapUsed);
  counted('wrenn_api_cpu_seconds_total', 'Of the API’s process.', () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  });
  read('wrenn_api_open_files', 'Of the API’s process, sockets included.', openFiles);
  // How late timers are; the waiting for the next one is in every sample.
  const delay = monitorEventLoopDelay({ resolution: DELAY_RESOLUTION_MS });
  delay.enable();
  read('wrenn_api_event_loop_delay_p99_seconds', 'Since it was last asked for.', () => {
    const lateMs = Math.max(0, delay.percentile(99) / 1e6 - DELAY_RESOLUTION_MS);
    delay.reset();
    return lateMs / 1000;
  });
  new Gauge({ name: 'wrenn_api_info', help: 'The version.', labelNames: ['version'], registers }).set(
    { version: sources.version },
    1,
  );
  return {
    answered: (method, route, status, durationMs) => {
      requests.inc({ method, route, status: String(status) });
      durations.observe({ method, route }, durationMs / 1000);
    },
    aborted: () => aborted.inc(),
    text: async () => await registry.metrics(),
  };
}

function openFiles(): number {
  try {
    return readdirSync('/proc/self/fd').length;
  } catch {
    return 0;
  }
}
