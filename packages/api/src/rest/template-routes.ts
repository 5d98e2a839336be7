/** /templates and /snapshots. Building templates is not here yet. */
import { WrennError } from '@wrenn/protocol';
import { z } from 'zod';
import { sandboxIdOf } from '../sandboxes/caller.ts';
import { buildUuid, fullName, type Templates } from '../sandboxes/templates.ts';
import { numberParam, text } from './fields.ts';
import { pageOf } from './pages.ts';
import { presentSnapshot, presentTemplate, presentTemplateDetail } from './present.ts';
import { type Answer, type Route, route } from './route.ts';
import * as schemas from './schemas.ts';

const params = z.strictObject({ templateID: text(256) });
const PAGE_MAX = 100;
const paging = {
  limit: numberParam(1, PAGE_MAX).default(PAGE_MAX),
  nextToken: text(256).optional().describe('X-Next-Token of the page before.'),
};

export function templateRoutes(templates: Templates): readonly Route[] {
  const common = { tag: 'templates', access: 'key' } as const;
  const under = { ...common, params } as const;
  const update = async (answer: Promise<{ readonly name: string; readonly aliases: readonly string[] }>) => {
    const { name, aliases } = await answer;
    return { status: 200, body: { names: [name, ...aliases] } };
  };
  return [
    route(
      {
        ...common,
        method: 'GET',
        path: '/templates',
        summary: 'List templates',
        query: z.strictObject({ teamID: text(128).optional() }),
        responses: { 200: z.array(schemas.templateSchema) },
        deprecated: true,
      },
      async ({ caller }) => ({ status: 200, body: (await templates.list(caller)).map(presentTemplate) }),
    ),
    route(
      {
        ...common,
        method: 'GET',
        path: '/v2/templates',
        summary: 'List templates in pages',
        query: z.strictObject({ teamID: text(128).optional(), ...paging }),
        responses: { 200: z.array(schemas.templateSchema) },
        headers: ['X-Next-Token'],
      },
      async ({ caller, query: { limit, nextToken } }) => {
        const all = (await templates.list(caller)).map((view, n) => ({ view, number: BigInt(n) }));
        const page = pageOf(all, ({ number }) => ({ atMs: 0, number }), { order: 'asc', limit, nextToken });
        return paged(
          page.items.map(({ view }) => presentTemplate(view)),
          page.nextToken,
        );
      },
    ),
    route(
      {
        ...under,
        method: 'GET',
        path: '/templates/{templateID}',
        summary: 'A template with its build',
        query: z.strictObject(paging),
        responses: { 200: schemas.templateDetailSchema },
        headers: ['X-Next-Token'],
      },
      async ({ caller, params: { templateID } }) => ({
        status: 200,
        body: presentTemplateDetail(await templates.get(caller, templateID)),
      }),
    ),
    route(
      {
        ...under,
        method: 'DELETE',
        path: '/templates/{templateID}',
        summary: 'Delete a template or a snapshot',
        responses: { 204: 'empty' },
      },
      async ({ caller, params: { templateID } }) => {
        await templates.remove(caller, templateID);
        return { status: 204 };
      },
    ),
    ...(['/templates/{templateID}', '/v2/templates/{templateID}'] as const).map((path) =>
      route(
        {
          ...under,
          method: 'PATCH',
          path,
          summary: 'Publish or withdraw',
          body: schemas.templateUpdateBody,
          responses: { 200: schemas.templateUpdateSchema },
        },
        ({ caller, params: { templateID }, body }) =>
          update(
            body.public == null
              ? templates.get(caller, templateID)
              : templates.setPublic(caller, templateID, body.public),
          ),
      ),
    ),
    route(
      {
        ...common,
        method: 'GET',
        path: '/templates/aliases/{alias}',
        summary: 'Whether there is one of this name',
        params: z.strictObject({ alias: text(256) }),
        responses: { 200: schemas.aliasSchema },
      },
      async ({ caller, params: { alias } }) => {
        const { id, isPublic } = await templates.exists(caller, alias);
        return { status: 200, body: { templateID: id, public: isPublic } };
      },
    ),
    route(
      {
        ...under,
        method: 'GET',
        path: '/templates/{templateID}/tags',
        summary: 'Its tags',
        responses: { 200: z.array(schemas.tagSchema) },
      },
      async ({ caller, params: { templateID } }) => {
        const tags = await templates.tags(caller, templateID);
        const body = tags.map(({ tag, buildId, createdAt }) => ({
          tag,
          buildID: buildUuid(buildId),
          createdAt: createdAt.toISOString(),
        }));
        return { status: 200, body };
      },
    ),
    route(
      {
        ...common,
        method: 'POST',
        path: '/templates/tags',
        summary: 'Give a build tags',
        body: schemas.assignTagsBody,
        responses: { 201: schemas.assignedTagsSchema },
      },
      async ({ caller, body: { target, tags } }) => {
        const buildId = await templates.assignTags(caller, target, tags);
        return { status: 201, body: { buildID: buildUuid(buildId), tags } };
      },
    ),
    route(
      {
        ...common,
        method: 'DELETE',
        path: '/templates/tags',
        summary: 'Take tags away',
        body: schemas.deleteTagsBody,
        responses: { 204: 'empty' },
      },
      async ({ caller, body: { name, tags } }) => {
        await templates.removeTags(caller, name, tags);
        return { status: 204 };
      },
    ),
    route(
      {
        tag: 'snapshots',
        access: 'key',
        method: 'GET',
        path: '/snapshots',
        summary: 'List snapshots, newest first, in pages',
        query: z.strictObject({ sandboxID: text(128).optional(), name: text(256).optional(), ...paging }),
        responses: { 200: z.array(schemas.snapshotSchema) },
        headers: ['X-Next-Token'],
      },
      async ({ caller, query: { sandboxID, name, limit, nextToken } }) => {
        const sandboxId = sandboxID === undefined ? undefined : idOrNone(sandboxID);
        const found = (await templates.snapshots(caller)).filter(
          (snapshot) =>
            (sandboxID === undefined || snapshot.sandboxId === sandboxId) &&
            (name === undefined || isNamed(snapshot, name)),
        );
        const page = pageOf(found, ({ createdAt, number }) => ({ atMs: createdAt.getTime(), number }), {
          order: 'desc',
          limit,
          nextToken,
        });
        return paged(page.items.map(presentSnapshot), page.nextToken);
      },
    ),
  ];
}

function paged(body: readonly unknown[], nextToken: string | undefined): Answer {
  return { status: 200, body, headers: nextToken === undefined ? {} : { 'x-next-token': nextToken } };
}

/** With a tag: that one; without: any of its tags. */
function isNamed(
  { id, names }: { readonly id: string; readonly names: readonly string[] },
  wanted: string,
): boolean {
  if (id === wanted || `${id}:default` === wanted) return true;
  return names.some((name) =>
    wanted.includes(':') ? name === fullName(wanted) : name.startsWith(`${wanted}:`),
  );
}

function idOrNone(text: string): string | undefined {
  try {
    return sandboxIdOf(text);
  } catch (error) {
    if (error instanceof WrennError) return undefined;
    throw error;
  }
}
