/** Which sandboxes a caller has. */
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import type { SandboxService } from '../sandboxes/service.ts';
import type { Templates } from '../sandboxes/templates.ts';
import type { SandboxView } from '../sandboxes/view.ts';
import { listParam, moment, numberParam, text } from './fields.ts';
import { pageOf, parseMetadataFilter } from './pages.ts';
import { presentListed } from './present.ts';
import { type Route, route } from './route.ts';
import * as schemas from './schemas.ts';

const PAGE_MAX = 100;
const metadataFilter = text(64 * 1024)
  .optional()
  .describe('As a form, a=b&c=d, of which each key and value is encoded once more.');

export function sandboxListRoutes(service: SandboxService, templates: Templates): readonly Route[] {
  const common = { tag: 'sandboxes', access: 'key', method: 'GET' } as const;
  return [
    route(
      {
        ...common,
        path: '/sandboxes',
        summary: 'List running sandboxes',
        query: z.strictObject({ metadata: metadataFilter }),
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
        path: '/v2/sandboxes',
        summary: 'List sandboxes, newest first, in pages',
        query: z.strictObject({
          metadata: metadataFilter,
          state: listParam(16).optional().describe('running, paused, or both, which is all.'),
          order: z.enum(['asc', 'desc']).default('desc'),
          startedAfter: moment.optional().describe('Or at that time.'),
          template: text(256).optional().describe('By its name, an alias, name:tag; or a snapshot.'),
          limit: numberParam(1, PAGE_MAX).default(PAGE_MAX),
          nextToken: text(256).optional().describe('X-Next-Token of the page before.'),
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
        const template = query.template && (await templates.idOf(caller, query.template));
        const found = (await service.list(caller)).filter(matching({ ...query, template }));
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
  ];
}

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
