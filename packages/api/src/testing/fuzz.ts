/** Requests made of the OpenAPI document: as it wants them, nearly so, and not at all. */
import * as fc from 'fast-check';
import { z } from 'zod';
import { jsonSchema } from '../rest/json-schema.ts';
import type { OpenApiDocument } from '../rest/openapi.ts';

export interface FuzzRequest {
  readonly operation: string;
  readonly method: string;
  /** As it is sent. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | undefined;
}

/** What is put where a request names something, so that some of them get far. */
export interface FuzzNames {
  readonly sandboxIds: readonly string[];
  readonly templates: readonly string[];
  readonly keyIds: readonly string[];
}

const parameterSchema = z.object({ name: z.string(), in: z.enum(['path', 'query']), schema: z.unknown() });
const operationSchema = z.object({
  parameters: z.array(parameterSchema).default([]),
  requestBody: z
    .object({ content: z.object({ 'application/json': z.object({ schema: z.unknown() }) }) })
    .optional(),
});
export interface Operation {
  readonly path: string;
  readonly method: string;
  readonly parameters: readonly z.infer<typeof parameterSchema>[];
  readonly body: unknown;
}

export function operationsOf(document: OpenApiDocument): readonly Operation[] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => {
      const { parameters, requestBody } = operationSchema.parse(operation);
      const body = requestBody?.content['application/json'].schema;
      return { path, method: method.toUpperCase(), parameters, body };
    }),
  );
}

/** Text that breaks parsers, paths, queries, terminals and databases. */
const HOSTILE_TEXT = [
  '',
  ' ',
  '\0',
  'a\0b',
  '../../../etc/passwd',
  '..%2f..%2fetc%2fpasswd',
  '/',
  '.',
  '__proto__',
  'constructor',
  'toString',
  "'; DROP TABLE api_keys; --",
  '" OR 1=1',
  '$1',
  '\ud800',
  '\uffff',
  '\u202e',
  '\u001b[2J',
  '\r\nX-Injected: 1',
  '<script>alert(1)</script>',
  // biome-ignore lint/suspicious/noTemplateCurlyInString: it is what an attacker writes
  '${PORT}${process.env}',
  '{{7*7}}',
  '%',
  '%00',
  'null',
  'NaN',
  '-0',
  '1e999',
  '9'.repeat(40),
  'ä'.repeat(300),
  'x'.repeat(5000),
  '*.example.com',
  '0.0.0.0/0',
  '256.1.1.1/99',
  '::ffff:127.0.0.1',
] as const;
const hostileText = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...HOSTILE_TEXT) },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 60 }) },
);
const HOSTILE_NUMBERS = [-1, 0, -0, 0.5, 1e21, 2 ** 31 - 1, 2 ** 31, 2 ** 53, -(2 ** 53), 1e308];
const hostileJson = fc.oneof(
  fc.constantFrom<unknown>(null, true, false, [], {}, [[]], { a: null }, ...HOSTILE_NUMBERS),
  hostileText,
  fc.jsonValue({ maxDepth: 3 }),
);
const DATES = [
  '2026-01-01T00:00:00Z',
  '9999-12-31T23:59:59.999Z',
  '0000-01-01T00:00:00Z',
  '0001-01-01T00:00:00+23:59',
  '2024-02-30T00:00:00Z',
  '1970-01-01T00:00:00-12:00',
];

/** Seldom the second: a request is made of many values, and should often get far. */
function almost<T>(usual: fc.Arbitrary<T>, rare: fc.Arbitrary<T>): fc.Arbitrary<T> {
  return fc.oneof({ weight: 24, arbitrary: usual }, { weight: 1, arbitrary: rare });
}

/** Values that the schema allows, or nearly. */
function valueFor(schema: unknown, document: OpenApiDocument, names: FuzzNames): fc.Arbitrary<unknown> {
  const parsed = jsonSchema.safeParse(schema);
  if (!parsed.success) return hostileJson;
  if (parsed.data.description?.startsWith('Not supported') === true)
    return almost(fc.constantFrom(null, {}, false), hostileJson);
  const { $ref, type, format, minimum, maximum, anyOf, items, properties, required, additionalProperties } =
    parsed.data;
  if ($ref !== undefined) return valueFor(resolve($ref, document), document, names);
  if (parsed.data.enum !== undefined) return fc.constantFrom(...parsed.data.enum);
  if (parsed.data.const !== undefined) return fc.constant(parsed.data.const);
  if (anyOf !== undefined) return fc.oneof(...anyOf.map((one) => valueFor(one, document, names)));
  switch (Array.isArray(type) ? type[0] : type) {
    case 'object': {
      const known = Object.entries(properties ?? {}).map(
        ([name, property]): [string, fc.Arbitrary<unknown>] => [
          name,
          named(name, names) ?? valueFor(property, document, names),
        ],
      );
      const record = fc.record(Object.fromEntries(known), { requiredKeys: required });
      if (properties !== undefined || additionalProperties === undefined) return record;
      return fc.dictionary(
        almost(fc.constantFrom('a', 'user', 'k.v'), hostileText),
        almost(valueFor(additionalProperties, document, names), hostileJson),
        { maxKeys: 3 },
      );
    }
    case 'array':
      return fc.array(valueFor(items, document, names), { maxLength: 3 });
    case 'integer':
    case 'number': {
      const [min, max] = [minimum ?? 0, maximum ?? 2 ** 31];
      const usual = fc.oneof(
        fc.integer({ min, max: Math.min(min + 7, max) }),
        fc.constant(Math.min(3600, max)),
      );
      return almost(usual, fc.constantFrom(min - 1, max, max + 1, ...HOSTILE_NUMBERS));
    }
    case 'boolean':
      return fc.boolean();
    case 'null':
      return fc.constant(null);
    case 'string':
      if (format === 'date-time') return fc.constantFrom(...DATES);
      return almost(fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,12}$/), hostileText);
    default:
      return hostileJson;
  }
}

function resolve(ref: string, document: OpenApiDocument): unknown {
  let found: unknown = document;
  for (const part of ref.slice('#/'.length).split('/')) {
    found = z.record(z.string(), z.unknown()).parse(found)[part];
  }
  return found;
}

/** A thing that there is, most of the time. */
function named(name: string, names: FuzzNames): fc.Arbitrary<unknown> | undefined {
  const pools: Readonly<Record<string, readonly string[]>> = {
    sandboxID: names.sandboxIds,
    sandbox_ids: names.sandboxIds,
    templateID: names.templates,
    template: names.templates,
    target: names.templates,
    alias: names.templates,
    apiKeyID: names.keyIds,
    name: names.templates,
  };
  if (name === 'tags') return almost<unknown>(fc.constant(['v1']), fc.array(hostileText, { maxLength: 3 }));
  const pool = pools[name];
  if (pool === undefined || pool.length === 0) return undefined;
  return almost(
    fc.oneof(
      { weight: 6, arbitrary: fc.constantFrom(...pool) },
      fc.constantFrom(...pool).map((one) => `${one}-client`),
    ),
    hostileText,
  );
}

/** Percent signs as they come, but nothing that Node would not send. */
const inAddress = (text: fc.Arbitrary<string>): fc.Arbitrary<string> =>
  fc.oneof(
    { weight: 12, arbitrary: text.map(safely) },
    {
      weight: 1,
      arbitrary: fc.constantFrom('%', '%ZZ', '%c0%af', '%00', '%2e%2e%2f', '..', '.', '%ff%fe', '*'),
    },
  );

function safely(text: string): string {
  try {
    return encodeURIComponent(text);
  } catch {
    // Half a character cannot be encoded; its bytes can be sent all the same.
    return '%ed%a0%80';
  }
}

/** Beside what a field may be: what nobody asked for. */
function bodyOf(
  operation: Operation,
  document: OpenApiDocument,
  names: FuzzNames,
): fc.Arbitrary<Buffer | undefined> {
  const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value) ?? '');
  const fitting = operation.body === undefined ? hostileJson : valueFor(operation.body, document, names);
  const changed = fc
    .tuple(fitting, fc.oneof(fc.nat(9), hostileText), hostileJson)
    .map(([value, where, what]) => {
      if (typeof value !== 'object' || value === null) return what;
      const entries = Object.entries(value);
      const key =
        typeof where === 'number' ? (entries[where % Math.max(1, entries.length)]?.[0] ?? 'x') : where;
      return Object.fromEntries([...entries, [key, what]]);
    });
  const raw = fc.constantFrom(
    '',
    '{',
    'null',
    '[]',
    '"',
    '{"__proto__":{"admin":true}}',
    '{"constructor":{"prototype":{"admin":true}}}',
    '{"timeout":1,"timeout":2}',
    '{"timeout":1e400}',
    `${'['.repeat(20_000)}${']'.repeat(20_000)}`,
    `${'{"a":'.repeat(20_000)}1${'}'.repeat(20_000)}`,
    `{"metadata":{${Array.from({ length: 2000 }, (_, n) => `"k${n}":"v"`).join()}}}`,
    `\ufeff{"timeout":1}`,
    '\ud800',
  );
  return fc.oneof(
    { weight: 8, arbitrary: fitting.map(json) },
    { weight: 5, arbitrary: changed.map(json) },
    { weight: 1, arbitrary: hostileJson.map(json) },
    { weight: 1, arbitrary: raw.map((text) => Buffer.from(text)) },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)) },
    { weight: 1, arbitrary: fc.constant(undefined) },
  );
}

const TYPES = [
  'text/plain',
  'application/json; charset=utf-7',
  'multipart/form-data',
  ';',
  'application/xml',
];

export function requestTo(
  operation: Operation,
  document: OpenApiDocument,
  names: FuzzNames,
): fc.Arbitrary<FuzzRequest> {
  const text = (name: string, schema: unknown): fc.Arbitrary<string> =>
    fc
      .oneof(
        { weight: 9, arbitrary: named(name, names) ?? valueFor(schema, document, names) },
        { weight: 1, arbitrary: hostileText },
      )
      .map((value) => (typeof value === 'string' ? value : (JSON.stringify(value) ?? '')));
  const path = operation.parameters.filter((parameter) => parameter.in === 'path');
  const query = operation.parameters.filter((parameter) => parameter.in === 'query');
  const parts = fc.tuple(...path.map(({ name, schema }) => inAddress(text(name, schema))));
  const pair = (name: string, schema: unknown) =>
    inAddress(text(name, schema)).map((value) => `${name}=${value}`);
  const asked = fc.tuple(...query.map(({ name, schema }) => fc.option(pair(name, schema), { freq: 2 })));
  const stray = fc.tuple(inAddress(hostileText), inAddress(hostileText)).map((both) => both.join('='));
  const beside = almost<string | null>(fc.constant(null), stray);
  const type = fc.oneof(
    { weight: 12, arbitrary: fc.constant('application/json') },
    { weight: 1, arbitrary: fc.constantFrom(...TYPES) },
  );
  const hasBody = operation.method !== 'GET';
  const body = hasBody ? bodyOf(operation, document, names) : fc.constant(undefined);
  return fc.tuple(parts, asked, beside, type, body).map(([values, pairs, extra, contentType, sent]) => {
    let filled = operation.path;
    for (const [index, { name }] of path.entries())
      filled = filled.replace(`{${name}}`, () => values[index] ?? '');
    const search = [...pairs, extra].filter((one) => one !== null).join('&');
    return {
      operation: `${operation.method} ${operation.path}`,
      method: operation.method,
      path: search === '' ? filled : `${filled}?${search}`,
      headers: sent === undefined ? {} : { 'content-type': contentType },
      body: sent,
    };
  });
}

/** What somebody may show who has no key, made of those that hold. */
export function strangeKeys(
  good: string,
  dead: readonly string[],
): fc.Arbitrary<Readonly<Record<string, string>>> {
  const shown = fc.oneof(
    fc.constantFrom('', 'e2b_', 'null', `e2b_${'0'.repeat(40)}`, `e2b_${'f'.repeat(4000)}`, ...dead),
    fc.constantFrom(
      good.toUpperCase(),
      good.slice(0, -1),
      `${good}0`,
      `${good}, ${good}`,
      good.slice(4),
      `${good}%00`,
    ),
    fc.stringMatching(/^e2b_[0-9a-f]{40}$/),
    fc.stringMatching(/^[ -~]{0,80}$/),
  );
  return fc.oneof(
    fc.constant({}),
    shown.map((key) => ({ 'x-api-key': key })),
    shown.map((key) => ({ authorization: `Bearer ${key}` })),
    shown.map((key) => ({ authorization: `Basic ${Buffer.from(`${key}:`).toString('base64')}` })),
    fc.constant({ cookie: `key=${good}`, 'x-forwarded-for': '127.0.0.1', 'x-supabase-token': good }),
  );
}
