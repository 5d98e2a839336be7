/** The document as a page that needs nothing from elsewhere: no script, no style sheet, no font. */
import { z } from 'zod';
import { describeSchema, escapeHtml, fieldTable } from './docs-schema.ts';
import type { OpenApiDocument } from './openapi.ts';

const STYLE = `body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:13px/1.45 ui-monospace,monospace}pre{background:#8881;padding:.75rem;overflow:auto;border-radius:6px}
summary{cursor:pointer;padding:.35rem 0}summary b{display:inline-block;min-width:4.5rem}
details{border-top:1px solid #8884}h2{margin-top:2rem}.old{opacity:.6}h3{margin:1rem 0 .25rem;font-size:1rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}td{border-top:1px solid #8883;padding:.2rem .75rem .2rem 0;vertical-align:top}`;

/** Sent with it, so that nothing in it could run even if it got there. */
export const DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

const EXAMPLE = `curl -X POST $E2B_API_URL/v2/sandboxes -H "X-API-Key: $E2B_API_KEY" \\
  -H 'Content-Type: application/json' -d '{"templateID": "base", "timeout": 300}'`;

const contentForm = z.record(z.string(), z.object({ schema: z.unknown() }));
const responseForm = z.object({
  description: z.string(),
  headers: z.record(z.string(), z.unknown()).default({}),
  content: contentForm.default({}),
});
type Response = z.infer<typeof responseForm>;
const operationForm = z.object({
  summary: z.string(),
  tags: z.array(z.string()).default(['other']),
  deprecated: z.boolean().default(false),
  security: z.array(z.unknown()),
  parameters: z
    .array(z.object({ name: z.string(), in: z.string(), required: z.boolean(), schema: z.unknown() }))
    .default([]),
  requestBody: z.object({ required: z.boolean(), content: contentForm }).optional(),
  responses: z.record(z.string(), responseForm),
});
type Operation = z.infer<typeof operationForm>;

export function docsPage(document: OpenApiDocument): string {
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => {
      const parsed = operationForm.parse(operation);
      return { group: parsed.tags[0] ?? 'other', method, path, operation: parsed };
    }),
  );
  const groups = [...new Set(operations.map(({ group }) => group))].map((group) => {
    const entries = operations.filter((each) => each.group === group).map(entry);
    return `<h2 id="${escapeHtml(group)}">${escapeHtml(group)}</h2>${entries.join('')}`;
  });
  const schemas = Object.entries(
    z.record(z.string(), z.unknown()).parse(Object(document.components).schemas),
  );
  const forms = schemas.map(
    ([name, schema]) =>
      `<h3 id="${escapeHtml(name)}">${escapeHtml(name)}</h3>${describeSchema(schema, 'told')}`,
  );
  const failures = new Map(
    operations.flatMap(({ operation }) => answersOf(operation, (status) => status >= 400)),
  );
  return `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Wrenn API</title><style>${STYLE}</style><h1>Wrenn API</h1>
<p>Requests carry their key in <code>X-API-Key</code>, and bodies are JSON.
The same as a document for programs: <a href="/openapi.json">openapi.json</a>.</p><pre>${escapeHtml(EXAMPLE)}</pre>
${groups.join('')}<h2>What answers are made of</h2>${forms.join('')}
<h2>Failures</h2><p>Each is <code>{"code", "message"}</code>. Where a field is wrong the message begins with its name;
429 and 503 come with <code>Retry-After</code>, in seconds.</p>
<table>${[...failures].map(([status, { description }]) => `<tr><td>${status}<td>${escapeHtml(description)}`).join('')}</table></html>`;
}

interface Entry {
  readonly method: string;
  readonly path: string;
  readonly operation: Operation;
}

function entry({ method, path, operation }: Entry): string {
  const { summary, deprecated, parameters, requestBody } = operation;
  const notes = [
    ...(deprecated ? ['For older SDKs.'] : []),
    ...(operation.security.length === 0 ? ['Needs no key.'] : []),
  ];
  const places = parameters.map(({ name, in: place, required, schema }) => ({
    name: place === 'path' ? `{${name}}` : `?${name}`,
    schema,
    required,
  }));
  const details = [
    notes.length === 0 ? '' : `<p>${notes.join(' ')}</p>`,
    section('Parameters', fieldTable(places, 'asked')),
    ...Object.values(requestBody?.content ?? {}).map(({ schema }) =>
      section(
        requestBody?.required === true ? 'Body' : 'Body, which may be absent',
        describeSchema(schema, 'asked'),
      ),
    ),
    ...answersOf(operation, (status) => status < 400).map(([status, answer]) =>
      section(`${status} ${escapeHtml(answer.description)}`, answerOf(answer)),
    ),
  ];
  const old = deprecated ? ' class="old"' : '';
  return `<details${old}><summary><b>${method.toUpperCase()}</b> <code>${escapeHtml(path)}</code> ${escapeHtml(summary)}</summary>${details.join('')}</details>`;
}

function answersOf(
  { responses }: Operation,
  isWanted: (status: number) => boolean,
): readonly (readonly [string, Response])[] {
  return Object.entries(responses).filter(([status]) => isWanted(Number(status)));
}

function answerOf({ headers, content }: Response): string {
  const names = Object.keys(headers).map((name) => `<code>${escapeHtml(name)}</code>`);
  const bodies = Object.entries(content).map(([type, { schema }]) =>
    type === 'application/json' ? describeSchema(schema, 'told') : `<p>${escapeHtml(type)}</p>`,
  );
  const nothing = bodies.length === 0 ? '<p>No body.</p>' : '';
  return `${nothing}${bodies.join('')}${names.length === 0 ? '' : `<p>Headers: ${names.join(', ')}</p>`}`;
}

function section(title: string, html: string): string {
  return html === '' ? '' : `<h3>${title}</h3>${html}`;
}
