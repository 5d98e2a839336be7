/** JSON Schema in words and tables, for people. */
import { jsonSchema, type JsonSchema as Schema } from './json-schema.ts';

/** What is not a schema allows anything. */
function read(schema: unknown): Schema {
  const parsed = jsonSchema.safeParse(schema);
  return parsed.success ? parsed.data : { required: [] };
}

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}

const FORMATS: Readonly<Record<string, string>> = { 'date-time': 'time, ISO 8601', uuid: 'UUID' };
/** Beyond it a bound is that of JavaScript's numbers, and says nothing. */
const TELLING_MAX = 2 ** 52;

/** As HTML: what has a name leads there. */
export function typeOf(schema: unknown): string {
  const { $ref, type, enum: values, anyOf, items, properties, additionalProperties, ...rest } = read(schema);
  if ($ref !== undefined) {
    const name = escapeHtml($ref.slice($ref.lastIndexOf('/') + 1));
    return `<a href="#${name}">${name}</a>`;
  }
  if (rest.const !== undefined) return code(rest.const);
  if (values !== undefined) return values.map(code).join(' or ');
  if (anyOf !== undefined) return anyOf.map(typeOf).join(' or ');
  if (Array.isArray(type)) return type.map((each) => typeOf({ type: each })).join(' or ');
  switch (type) {
    case 'array':
      return `list of ${typeOf(items)}${rest.maxItems ? `, ${rest.maxItems} at most` : ''}`;
    case 'object':
      if (properties !== undefined || additionalProperties === undefined) return 'object';
      return `object, each value ${typeOf(additionalProperties)}`;
    case 'integer':
    case 'number':
      return `${type}${rangeOf(rest)}`;
    case 'string': {
      const kind = FORMATS[rest.format ?? ''];
      return kind ?? `string${rest.maxLength === undefined ? '' : `, up to ${rest.maxLength} characters`}`;
    }
    case undefined:
      return 'anything';
    default:
      return escapeHtml(type);
  }
}

function rangeOf({ minimum, maximum }: Pick<Schema, 'minimum' | 'maximum'>): string {
  const isTold = (bound: number | undefined) => bound !== undefined && Math.abs(bound) < TELLING_MAX;
  if (isTold(minimum) && isTold(maximum)) return ` from ${minimum} to ${maximum}`;
  return isTold(minimum) ? ` from ${minimum} on` : isTold(maximum) ? ` up to ${maximum}` : '';
}

const code = (value: unknown): string => `<code>${escapeHtml(JSON.stringify(value) ?? '')}</code>`;

export interface Field {
  /** With those that it is in: `network.allowOut`, `builds[].status`. */
  readonly name: string;
  readonly schema: unknown;
  readonly required: boolean;
}

/** Of an object, and of the objects in it that have no name of their own. */
export function fieldsOf(schema: unknown, prefix = ''): readonly Field[] {
  const { properties = {}, required } = read(schema);
  return Object.entries(properties).flatMap(([key, property]) => {
    const name = `${prefix}${key}`;
    return [
      { name, schema: property, required: required.includes(key) },
      ...inner(property).flatMap(([part, suffix]) => fieldsOf(part, `${name}${suffix}.`)),
    ];
  });
}

/** Where the fields of what a field holds are. */
function inner(schema: unknown): readonly (readonly [unknown, string])[] {
  const { anyOf, items, properties } = read(schema);
  if (properties !== undefined) return [[schema, '']];
  if (items !== undefined) return inner(items).map(([part, suffix]) => [part, `[]${suffix}`]);
  return (anyOf ?? []).flatMap(inner);
}

/** Whose fields they are: what has to be said of one is what is not usual. */
export type Side = 'asked' | 'told';

export function fieldTable(fields: readonly Field[], side: Side): string {
  const rows = fields.map(({ name, schema, required }) => {
    const { description = '', default: usual } = read(schema);
    const about = [
      side === 'asked' && required ? 'Required.' : '',
      side === 'told' && !required ? 'May be absent.' : '',
      escapeHtml(description),
      usual === undefined ? '' : `${code(usual)} where it is absent.`,
    ];
    const words = about.filter((part) => part !== '').join(' ');
    return `<tr><td><code>${escapeHtml(name)}</code><td>${typeOf(schema)}<td>${words}`;
  });
  return rows.length === 0 ? '' : `<table>${rows.join('')}</table>`;
}

/** What a body is: a table of its fields, or where it is told. */
export function describeSchema(schema: unknown, side: Side): string {
  const table = fieldTable(
    inner(schema).flatMap(([part, suffix]) => fieldsOf(part, suffix === '' ? '' : `${suffix}.`)),
    side,
  );
  return read(schema).properties === undefined ? `<p>${typeOf(schema)}</p>${table}` : table;
}
