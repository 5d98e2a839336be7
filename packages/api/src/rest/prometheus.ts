/** What the API counts about itself. A registry of its own: nothing is global. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { AgentSandbox } from '../agent-client/index.ts';

export interface ApiMetrics {
  answered(method: string, route: string, status: number, durationMs: number): void;
  text(): Promise<string>;
}

const BUCKETS_S = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export function createApiMetrics(
  sandboxes: () => Iterable<AgentSandbox>,
  inFlight: () => number,
): ApiMetrics {
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
  const gauges: Gauge = new Gauge({
    name: 'wrenn_api_sandboxes',
    help: 'Sandboxes that the agent has.',
    labelNames: ['state'],
    registers,
    collect: () => {
      gauges.reset();
      for (const { state } of sandboxes()) gauges.inc({ state });
    },
  });
  const waiting: Gauge = new Gauge({
    name: 'wrenn_api_requests_in_flight',
    help: 'Requests that wait for their answer.',
    registers,
    collect: () => waiting.set(inFlight()),
  });
  const memory: Gauge = new Gauge({
    name: 'wrenn_api_resident_memory_bytes',
    help: 'Of the API’s process.',
    registers,
    collect: () => memory.set(process.memoryUsage.rss()),
  });
  return {
    answered: (method, route, status, durationMs) => {
      requests.inc({ method, route, status: String(status) });
      durations.observe({ method, route }, durationMs / 1000);
    },
    text: async () => await registry.metrics(),
  };
}
