/** The OpenAPI document, from the schemas that the server validates with. */
import { z } from 'zod';
import type { ResponseSpec, Route, RouteSpec } from './route.ts';
import { errorSchema } from './schemas.ts';

type Json = Readonly<Record<string, unknown>>;
export interface OpenApiDocument extends Json {
  readonly openapi: '3.1.0';
  readonly paths: Readonly<Record<string, Readonly<Record<string, Json>>>>;
}

const ERRORS: Readonly<Record<number, string>> = {
  400: 'The request is wrong; the message names the field',
  401: 'No valid API key',
  403: 'This key may not',
  404: 'There is none, or it is not this key’s',
  408: 'The request took too long to arrive',
  409: 'Not possible in its present state',
  413: 'The request is too large',
  414: 'The address is too long',
  415: 'Not JSON',
  429: 'A limit of this key is reached',
  500: 'Something failed inside',
  503: 'Something that is needed is used up or away',
  504: 'Something that is needed did not answer in time',
};

export function openApiDocument(routes: readonly Route[], version: string): OpenApiDocument {
  const schemas: Record<string, unknown> = {};
  const paths: Record<string, Record<string, Json>> = {};
  for (const { spec } of routes) {
    const methods = paths[spec.path] ?? {};
    methods[spec.method.toLowerCase()] = operation(spec, schemas);
    paths[spec.path] = methods;
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Wrenn',
      version,
      description: 'MicroVM sandboxes for code that nobody has read, behind the API of the E2B SDKs.',
    },
    security: [{ ApiKey: [] }],
    paths,
    components: {
      securitySchemes: {
        ApiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key' },
        Bearer: { type: 'http', scheme: 'bearer' },
      },
      schemas,
    },
  };
}

function operation(spec: RouteSpec, schemas: Record<string, unknown>): Json {
  const parameters = [
    ...parametersOf(spec.params, 'path', schemas),
    ...parametersOf(spec.query, 'query', schemas),
  ];
  const responses: Record<string, Json> = {};
  for (const [status, response] of Object.entries(spec.responses)) {
    responses[status] = {
      description: DESCRIPTIONS[status] ?? 'Done',
      ...(spec.headers === undefined
        ? {}
        : {
            headers: Object.fromEntries(spec.headers.map((name) => [name, { schema: { type: 'string' } }])),
          }),
      ...contentOf(response, schemas),
    };
  }
  for (const [status, description] of Object.entries(ERRORS)) {
    responses[status] ??= { description, ...contentOf(errorSchema, schemas) };
  }
  return {
    summary: spec.summary,
    tags: [spec.tag],
    operationId: operationId(spec),
    ...(spec.deprecated ? { deprecated: true } : {}),
    ...(spec.access === 'open' ? { security: [] } : { security: [{ ApiKey: [] }, { Bearer: [] }] }),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(spec.body === undefined
      ? {}
      : {
          requestBody: {
            required: spec.bodyOptional !== true,
            content: { 'application/json': { schema: toJson(spec.body, 'input', schemas) } },
          },
        }),
    responses,
  };
}

const DESCRIPTIONS: Readonly<Record<string, string>> = { 200: 'OK', 201: 'Created', 204: 'Done' };

function operationId({ method, path }: RouteSpec): string {
  const words = path.split(/[^A-Za-z0-9]+/).filter((word) => word !== '');
  return method.toLowerCase() + words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join('');
}

function parametersOf(
  schema: z.ZodType | undefined,
  place: 'path' | 'query',
  schemas: Record<string, unknown>,
): Json[] {
  if (schema === undefined) return [];
  const { properties, required } = objectSchema.parse(toJson(schema, 'input', schemas));
  return Object.entries(properties).map(([name, property]) => ({
    name,
    in: place,
    required: place === 'path' || required.includes(name),
    schema: property,
  }));
}

const objectSchema = z.object({
  properties: z.record(z.string(), z.unknown()),
  required: z.array(z.string()).default([]),
});

function contentOf(response: ResponseSpec, schemas: Record<string, unknown>): Json {
  if (response === 'empty') return {};
  if (typeof response === 'string') return { content: { [response]: { schema: { type: 'string' } } } };
  return { content: { 'application/json': { schema: toJson(response, 'output', schemas) } } };
}

/** As JSON Schema; what has a name goes to the document's components. */
function toJson(schema: z.ZodType, io: 'input' | 'output', schemas: Record<string, unknown>): unknown {
  const {
    $defs,
    $schema: _,
    ...json
  } = z.toJSONSchema(schema, {
    io,
    unrepresentable: 'any',
    override: ({ zodSchema, jsonSchema }) => {
      const meta = 'meta' in zodSchema && typeof zodSchema.meta === 'function' ? zodSchema.meta() : undefined;
      if (meta?.override === undefined) return;
      for (const key of Object.keys(jsonSchema)) delete jsonSchema[key];
      Object.assign(jsonSchema, meta.override);
    },
  });
  for (const [name, definition] of Object.entries($defs ?? {})) schemas[name] = moved(definition);
  if (typeof json.id === 'string') {
    const { id, ...definition } = json;
    schemas[id] = moved(definition);
    return { $ref: `#/components/schemas/${id}` };
  }
  return moved(json);
}

/** References from where zod has its definitions to where OpenAPI has them. */
function moved(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(moved);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      // A schema's own name, and no property that is called so.
      .filter(([key, part]) => key !== 'id' || typeof part !== 'string')
      .map(([key, part]) => [
        key,
        key === '$ref' && typeof part === 'string'
          ? part.replace('#/$defs/', '#/components/schemas/')
          : moved(part),
      ]),
  );
}
