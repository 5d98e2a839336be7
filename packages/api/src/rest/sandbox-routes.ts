/** /sandboxes and what lies under it. */
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import type { Caller } from '../sandboxes/caller.ts';
import type { LogLine } from '../sandboxes/logs.ts';
import type { SandboxService, SandboxView } from '../sandboxes/service.ts';
import type { NetworkSettings } from '../store/sandboxes.ts';
import { toAnswer } from './errors.ts';
import { listParam, moment, numberParam, text } from './fields.ts';
import { pageOf, parseMetadataFilter } from './pages.ts';
import { presentDetail, presentListed, presentMetric, presentSandbox, presentSnapshot } from './present.ts';
import { type Answer, type Route, route } from './route.ts';
import * as schemas from './schemas.ts';

const params = z.strictObject({ sandboxID: text(128) });
const tag = 'sandboxes';
const PAGE_MAX = 100;

export interface SandboxRoutesDeps {
  readonly service: SandboxService;
  readonly domain: string | undefined;
}

export function sandboxRoutes({ service, domain }: SandboxRoutesDeps): readonly Route[] {
  const create = async (caller: Caller, body: schemas.NewSandboxBody): Promise<Answer> => {
    const made = await service.create(caller, {
      template: body.templateID,
      timeoutMs: body.timeout * 1000,
      envs: body.envVars ?? {},
      metadata: body.metadata ?? {},
      network: toNetwork(body),
      autoPause: body.autoPause ?? false,
      autoResume: body.autoResume?.enabled ?? false,
      vcpus: body.cpuCount ?? undefined,
      memoryMib: body.memoryMB ?? undefined,
    });
    return { status: 201, body: presentSandbox(made, domain) };
  };
  const connect = async (caller: Caller, id: string, timeoutS: number): Promise<Answer> => {
    const found = await service.connect(caller, id, timeoutS * 1000);
    return { status: found.resumed ? 201 : 200, body: presentSandbox(found, domain) };
  };
  const common = { tag, access: 'key' } as const;
  const under = { ...common, params } as const;
  const created = { 201: schemas.sandboxSchema };
  const connected = { 200: schemas.sandboxSchema, 201: schemas.sandboxSchema };
  const done = { 204: 'empty' } as const;

  return [
    route(
      {
        ...common,
        method: 'POST',
        path: '/sandboxes',
        summary: 'Create a sandbox',
        body: schemas.newSandboxBody,
        responses: created,
        deprecated: true,
      },
      ({ caller, body }) => create(caller, body),
    ),
    route(
      {
        ...common,
        method: 'POST',
        path: '/v2/sandboxes',
        summary: 'Create a sandbox',
        body: schemas.newSandboxV2Body,
        responses: created,
      },
      ({ caller, body }) => create(caller, body),
    ),
    route(
      {
        ...common,
        method: 'GET',
        path: '/sandboxes',
        summary: 'List running sandboxes',
        query: z.strictObject({ metadata: text(64 * 1024).optional() }),
        responses: { 200: z.array(schemas.listedSandboxSchema) },
        deprecated: true,
      },
      async ({ caller, query }) => {
        const running = (await service.list(caller)).filter(({ state }) => state === 'running');
        const { items } = pageOf(running.filter(matching(query)), positionOf, {
          order: 'desc',
          limit: running.length,
          nextToken: undefined,
        });
        return { status: 200, body: items.map((view) => presentListed(view)) };
      },
    ),
    route(
      {
        ...common,
        method: 'GET',
        path: '/v2/sandboxes',
        summary: 'List sandboxes, newest first, in pages',
        query: z.strictObject({
          metadata: text(64 * 1024).optional(),
          state: listParam(16).optional(),
          order: z.enum(['asc', 'desc']).default('desc'),
          startedAfter: moment.optional(),
          template: text(256).optional(),
          limit: numberParam(1, PAGE_MAX).default(PAGE_MAX),
          nextToken: text(256).optional(),
        }),
        responses: { 200: z.array(schemas.listedSandboxSchema) },
        headers: ['X-Next-Token', 'X-Total-Running'],
      },
      async ({ caller, query }) => {
        const states = z.array(z.enum(['running', 'paused'])).safeParse(query.state ?? []);
        if (!states.success) {
          throw new WrennError('invalid_argument', 'state: must be running, paused or both.', {
            field: 'state',
          });
        }
        const wanted = new Set(states.data.length === 0 ? ['running', 'paused'] : states.data);
        const found = (await service.list(caller)).filter(matching(query));
        const { items, nextToken } = pageOf(
          found.filter(({ state }) => wanted.has(state)),
          positionOf,
          { order: query.order, limit: query.limit, nextToken: query.nextToken },
        );
        const running = found.filter(({ state }) => state === 'running').length;
        return {
          status: 200,
          body: items.map((view) => presentListed(view)),
          headers: {
            ...(nextToken === undefined ? {} : { 'x-next-token': nextToken }),
            ...(wanted.has('running') ? { 'x-total-running': String(running) } : {}),
          },
        };
      },
    ),
    route(
      {
        ...common,
        method: 'GET',
        path: '/sandboxes/metrics',
        summary: 'The newest metrics of several sandboxes',
        query: z.strictObject({ sandbox_ids: listParam(PAGE_MAX) }),
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
        method: 'GET',
        path: '/sandboxes/{sandboxID}',
        summary: 'A sandbox',
        responses: { 200: schemas.sandboxDetailSchema },
      },
      async ({ caller, params: { sandboxID } }) => ({
        status: 200,
        body: presentDetail(await service.get(caller, sandboxID), domain),
      }),
    ),
    route(
      {
        ...under,
        method: 'DELETE',
        path: '/sandboxes/{sandboxID}',
        summary: 'Kill a sandbox',
        responses: done,
      },
      async ({ caller, params: { sandboxID } }) => {
        await service.kill(caller, sandboxID);
        return { status: 204 };
      },
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/connect',
        summary: 'Connect; wakes a paused one (201)',
        body: schemas.connectBody,
        responses: connected,
        deprecated: true,
      },
      ({ caller, params: { sandboxID }, body }) => connect(caller, sandboxID, body.timeout),
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/v2/sandboxes/{sandboxID}/connect',
        summary: 'Connect; wakes a paused one (201)',
        body: schemas.connectV2Body,
        bodyOptional: true,
        responses: connected,
      },
      ({ caller, params: { sandboxID }, body }) => connect(caller, sandboxID, body.timeout),
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/resume',
        summary: 'Wake a paused sandbox',
        body: schemas.resumeBody,
        bodyOptional: true,
        responses: created,
        deprecated: true,
      },
      async ({ caller, params: { sandboxID }, body }) => ({
        status: 201,
        body: presentSandbox(await service.resume(caller, sandboxID, body.timeout * 1000), domain),
      }),
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/pause',
        summary: 'Pause, memory and all, to disk',
        body: schemas.pauseBody,
        bodyOptional: true,
        responses: done,
      },
      async ({ caller, params: { sandboxID } }) => {
        await service.pause(caller, sandboxID);
        return { status: 204 };
      },
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/timeout',
        summary: 'Set when it ends, from now',
        body: schemas.timeoutBody,
        responses: done,
      },
      async ({ caller, params: { sandboxID }, body }) => {
        await service.setTimeout(caller, sandboxID, body.timeout * 1000);
        return { status: 204 };
      },
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/refreshes',
        summary: 'Extend its time',
        body: schemas.refreshBody,
        bodyOptional: true,
        responses: done,
        deprecated: true,
      },
      async ({ caller, params: { sandboxID }, body }) => {
        await service.refresh(caller, sandboxID, body.duration * 1000);
        return { status: 204 };
      },
    ),
    route(
      {
        ...under,
        method: 'PUT',
        path: '/sandboxes/{sandboxID}/network',
        summary: 'Replace what it may reach',
        body: schemas.networkUpdateBody,
        responses: done,
      },
      async ({ caller, params: { sandboxID }, body }) => {
        await service.updateNetwork(caller, sandboxID, toEgress(body.allow_internet_access, body));
        return { status: 204 };
      },
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/snapshots',
        summary: 'Make a snapshot',
        body: schemas.snapshotBody,
        bodyOptional: true,
        responses: { 201: schemas.snapshotSchema },
      },
      async ({ caller, params: { sandboxID }, body }) => ({
        status: 201,
        body: presentSnapshot(await service.snapshot(caller, sandboxID, body.name ?? undefined)),
      }),
    ),
    route(
      {
        ...under,
        method: 'POST',
        path: '/sandboxes/{sandboxID}/fork',
        summary: 'Make copies that go on by themselves',
        body: schemas.forkBody,
        bodyOptional: true,
        responses: { 201: z.array(schemas.forkResultSchema) },
      },
      async ({ caller, params: { sandboxID }, body }) => {
        try {
          const copies = await service.fork(caller, sandboxID, body.count, body.timeout * 1000);
          return { status: 201, body: copies.map((copy) => ({ sandbox: presentSandbox(copy, domain) })) };
        } catch (error) {
          const answer = toAnswer(error);
          // The sandbox was there and ready, and no copy could be made: that is said of each.
          if (answer.status !== 503) throw error;
          return { status: 201, body: Array.from({ length: body.count }, () => ({ error: answer.body })) };
        }
      },
    ),
    route(
      {
        ...under,
        method: 'GET',
        path: '/sandboxes/{sandboxID}/metrics',
        summary: 'What it uses, over time',
        query: z.strictObject({ start: unixSeconds.optional(), end: unixSeconds.optional() }),
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

const unixSeconds = numberParam(0, 8_640_000_000);
const unixMs = numberParam(0, 8_640_000_000_000);
const LOGS_MAX = 1000;
const toDate = (unix: number | undefined) => (unix === undefined ? undefined : new Date(unix * 1000));

function logRoutes(service: SandboxService): readonly Route[] {
  const common = { tag, access: 'key', params, method: 'GET' } as const;
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
        ...common,
        path: '/sandboxes/{sandboxID}/logs',
        summary: 'The end of its console, and its processes',
        query: z.strictObject({ start: unixMs.optional(), limit: numberParam(0, INT_MAX).default(LOGS_MAX) }),
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
        ...common,
        path: '/v2/sandboxes/{sandboxID}/logs',
        summary: 'The end of its console, and its processes',
        query: z.strictObject({
          cursor: unixMs.optional(),
          direction: z.enum(['forward', 'backward']).default('forward'),
          level: z.enum(['debug', 'info', 'warn', 'error']).default('debug'),
          limit: numberParam(0, INT_MAX).default(LOGS_MAX),
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

const INT_MAX = 2 ** 31 - 1;

interface Filter {
  readonly metadata?: string | undefined;
  readonly template?: string | undefined;
  readonly startedAfter?: string | undefined;
}

function matching({ metadata, template, startedAfter }: Filter): (view: SandboxView) => boolean {
  const filter = [...parseMetadataFilter(metadata ?? '')];
  const from = startedAfter === undefined ? undefined : Date.parse(startedAfter);
  return ({ record }) =>
    (template === undefined || record.template === template) &&
    (from === undefined || record.createdAt.getTime() >= from) &&
    filter.every(([key, value]) => Object.hasOwn(record.metadata, key) && record.metadata[key] === value);
}

const positionOf = ({ record }: SandboxView) => ({
  atMs: record.createdAt.getTime(),
  number: 'number' in record ? record.number : 0n,
});

function toNetwork({ network, allow_internet_access }: schemas.NewSandboxBody): NetworkSettings {
  const { allowPublicTraffic, maskRequestHost } = network ?? {};
  return {
    ...toEgress(allow_internet_access, network ?? {}),
    ...(allowPublicTraffic == null ? {} : { allowPublicTraffic }),
    ...(maskRequestHost == null ? {} : { maskRequestHost }),
  };
}

function toEgress(
  allowInternetAccess: boolean | null | undefined,
  lists: { readonly allowOut?: string[] | null | undefined; readonly denyOut?: string[] | null | undefined },
): NetworkSettings {
  return {
    ...(allowInternetAccess == null ? {} : { allowInternetAccess }),
    ...(lists.allowOut == null ? {} : { allowOut: lists.allowOut }),
    ...(lists.denyOut == null ? {} : { denyOut: lists.denyOut }),
  };
}

function ifNotFound(error: unknown): readonly never[] {
  if (error instanceof WrennError && error.kind === 'not_found') return [];
  throw error;
}
