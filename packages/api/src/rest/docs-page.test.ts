/** The page that people read. */
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { z } from 'zod';
import { docsPage } from './docs-page.ts';
import { describeSchema, typeOf } from './docs-schema.ts';
import { openApiDocument } from './openapi.ts';
import { route } from './route.ts';

const thing = z.object({
  id: z.uuid(),
  parts: z.array(z.object({ at: z.iso.datetime() })),
  name: z.string().optional(),
});
const spec = {
  method: 'POST',
  path: '/things/{thingID}',
  summary: 'Make a <thing>',
  tag: 'things',
  access: 'key',
  params: z.strictObject({ thingID: z.string().max(9) }),
  query: z.strictObject({ limit: z.int().min(1).max(5).default(3).describe('How many.') }),
  body: z.object({ size: z.enum(['s', 'l']), inner: z.object({ on: z.boolean() }).nullish() }),
  responses: { 201: thing.meta({ id: 'Thing' }), 204: 'empty' },
  headers: ['X-Next-Token'],
  deprecated: true,
} as const;
const page = docsPage(openApiDocument([route(spec, async () => ({ status: 204 }))], '1'));

it('has what is sent and what comes back, field by field', () => {
  for (const row of [
    '<summary><b>POST</b> <code>/things/{thingID}</code> Make a &#60;thing&#62;</summary><p>For older SDKs.</p>',
    '<tr><td><code>{thingID}</code><td>string, up to 9 characters<td>Required.',
    '<tr><td><code>?limit</code><td>integer from 1 to 5<td>How many. <code>3</code> where it is absent.',
    '<tr><td><code>size</code><td><code>&#34;s&#34;</code> or <code>&#34;l&#34;</code><td>Required.',
    '<tr><td><code>inner</code><td>object or null<td>',
    '<tr><td><code>inner.on</code><td>boolean<td>Required.',
    '<p><a href="#Thing">Thing</a></p><p>Headers: <code>X-Next-Token</code></p>',
    '<h3 id="Thing">Thing</h3><table><tr><td><code>id</code><td>UUID<td>',
    '<tr><td><code>parts[].at</code><td>time, ISO 8601<td>',
    '<tr><td><code>name</code><td>string<td>May be absent.',
    '<h3>204 Done</h3><p>No body.</p>',
    '<tr><td>429<td>',
  ]) {
    expect(page).toContain(row);
  }
});

it('takes any schema, and writes nothing that is no text', () => {
  const hostile = fc.oneof(fc.constantFrom('<script>', '"><b>', '&amp;', "'"), fc.string());
  const key = fc.constantFrom(
    'type',
    '$ref',
    'enum',
    'const',
    'format',
    'properties',
    'items',
    'anyOf',
    'default',
  );
  const value = fc.oneof(hostile, fc.array(hostile), fc.dictionary(hostile, hostile), fc.jsonValue());
  fc.assert(
    fc.property(fc.dictionary(fc.oneof(key, hostile), value), hostile, (schema, text) => {
      const object = {
        type: 'object',
        properties: { [text]: { ...schema, description: text, default: text } },
      };
      for (const html of [typeOf(schema), describeSchema(object, 'asked'), describeSchema(schema, 'told')]) {
        const tags = html.match(/<[^>]*>?/g) ?? [];
        for (const tag of tags) expect(tag).toMatch(/^<(\/?(p|table|code|a)|tr|td|a href="#[^"<>]*")>$/);
        expect(html.replaceAll(/<[^>]*>/g, '')).not.toMatch(/[<>"']|&(?!#\d+;)/);
      }
    }),
  );
});
