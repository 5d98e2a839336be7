/** What sandboxes have used and said. */
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import type { LogLine } from '../sandboxes/logs.ts';
import type { SandboxService } from '../sandboxes/service.ts';
import { INT32_MAX, listParam, numberParam, text } from './fields.ts';
import { presentMetric } from './present.ts';
import { type Route, route } from './route.ts';
import * as schemas from './schemas.ts';

const params = z.strictObject({ sandboxID: text(128) });
const METRICS_OF_MAX = 100;
const LOGS_MAX = 1000;
const unixSeconds = numberParam(0, 8_640_000_000);
const unixMs = numberParam(0, 8_640_000_000_000);
const toDate = (unix: number | undefined) => (unix === undefined ? undefined : new Date(unix * 1000));
const common = { tag: 'sandboxes', access: 'key', method: 'GET' } as const;
const under = { ...common, params } as const;

export function sandboxHistoryRoutes(service: SandboxService): readonly Route[] {
  return [
    route(
      {
        ...common,
        path: '/sandboxes/metrics',
        summary: 'The newest metrics of several sandboxes',
        query: z.strictObject({ sandbox_ids: listParam(METRICS_OF_MAX) }),
        responses: { 200: schemas.metricsOfManySchema },
      },
      async ({ caller, query }) => {
        const found = await Promise.all(
          query.sandbox_ids.map(async (id) => {
            const last = (await service.metrics(caller, id).catch(ifNotFound)).at(-1);
            return last === undefined ? [] : [[id, presentMetric(last)] as const];
          }),
        );
        return { status: 200, body: { sandboxes: Object.fromEntries(found.flat()) } };
      },
    ),
    route(
      {
        ...under,
        path: '/sandboxes/{sandboxID}/metrics',
        summary: 'What it uses, over time',
        query: z.strictObject({
          start: unixSeconds.optional().describe('Seconds since 1970.'),
          end: unixSeconds.optional().describe('Seconds since 1970.'),
        }),
        responses: { 200: z.array(schemas.metricSchema) },
      },
      async ({ caller, params: { sandboxID }, query: { start, end } }) => {
        const to = end === undefined ? undefined : new Date(end * 1000 + 999);
        const points = await service.metrics(caller, sandboxID, toDate(start), to);
        return { status: 200, body: points.map(presentMetric) };
      },
    ),
    ...logRoutes(service),
  ];
}

function logRoutes(service: SandboxService): readonly Route[] {
  const entry = ({ at, message, fields = {} }: LogLine) => ({
    timestamp: at.toISOString(),
    message,
    level: 'info' as const,
    fields: { ...fields },
  });
  // What E2B's CLI reads: a line is an object in JSON, and has a level and a logger.
  const asJson = ({ message, fields }: LogLine) =>
    JSON.stringify({
      ...fields,
      level: 'info',
      logger: fields === undefined ? 'console' : 'process',
      message,
    });
  return [
    route(
      {
        ...under,
        path: '/sandboxes/{sandboxID}/logs',
        summary: 'The end of its console, and its processes',
        query: z.strictObject({
          start: unixMs.optional(),
          limit: numberParam(0, INT32_MAX).default(LOGS_MAX),
        }),
        responses: { 200: schemas.logsSchema },
        deprecated: true,
      },
      async ({ caller, params: { sandboxID }, query: { start = 0, limit } }) => {
        const lines = (await service.logs(caller, sandboxID))
          .filter(({ at }) => at.getTime() >= start)
          .slice(0, Math.min(limit, LOGS_MAX));
        const logs = lines.map((line) => ({ timestamp: line.at.toISOString(), line: asJson(line) }));
        return { status: 200, body: { logs, logEntries: lines.map(entry) } };
      },
    ),
    route(
      {
        ...under,
        path: '/v2/sandboxes/{sandboxID}/logs',
        summary: 'The end of its console, and its processes',
        query: z.strictObject({
          cursor: unixMs.optional(),
          direction: z.enum(['forward', 'backward']).default('forward'),
          level: z.enum(['debug', 'info', 'warn', 'error']).default('debug'),
          limit: numberParam(0, INT32_MAX).default(LOGS_MAX),
          search: text(256).optional(),
        }),
        responses: { 200: schemas.logsV2Schema },
      },
      async ({ caller, params: { sandboxID }, query: { cursor, direction, level, limit, search = '' } }) => {
        const all = await service.logs(caller, sandboxID);
        // A console knows no levels: all of it is information.
        const heard = level === 'debug' || level === 'info' ? all : [];
        const ordered = direction === 'forward' ? heard : [...heard].reverse();
        const within = ordered.filter(({ at, message }) => {
          if (!message.includes(search)) return false;
          if (cursor === undefined) return true;
          return direction === 'forward' ? at.getTime() >= cursor : at.getTime() <= cursor;
        });
        return { status: 200, body: { logs: within.slice(0, Math.min(limit, LOGS_MAX)).map(entry) } };
      },
    ),
  ];
}

function ifNotFound(error: unknown): readonly never[] {
  if (error instanceof WrennError && error.kind === 'not_found') return [];
  throw error;
}
