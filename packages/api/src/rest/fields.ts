/** The kinds of values that requests are made of, each with its bound. */
import { z } from 'zod';

/** Neither NUL nor half a character: PostgreSQL and the guest can keep neither. */
const CLEAN = /^[^\0\p{Surrogate}]*$/u;

export const text = (maxChars: number) => z.string().max(maxChars).regex(CLEAN, 'must be text without NUL');
export const INT32_MAX = 2 ** 31 - 1;
export const seconds = z.int().min(0).max(INT32_MAX);
export const metadata = z.record(text(1024).min(1), text(32 * 1024));
export const envs = z.record(text(1024).regex(/^[^=]+$/, 'must be a name without ='), text(128 * 1024));
export const dateTime = z.iso.datetime({ offset: true });
const EPOCH_END_MS = Date.UTC(10_000, 0);
/** A time in a request: within what PostgreSQL and JavaScript write alike. */
export const moment = dateTime.refine((text) => {
  const ms = Date.parse(text);
  return ms >= 0 && ms < EPOCH_END_MS;
}, 'must be a time between 1970 and 9999');

/** A number in a query. */
export const numberParam = (min: number, max: number) =>
  z
    .string()
    .regex(/^-?\d{1,15}$/, 'must be a whole number')
    .transform(Number)
    .pipe(z.int().min(min).max(max))
    .meta({ override: { type: 'integer', minimum: min, maximum: max } });

/** `a,b`, or the parameter several times. */
export const listParam = (maxItems: number) =>
  z
    .union([text(32 * 1024), z.array(text(1024)).max(maxItems)])
    .transform((value) => (Array.isArray(value) ? value : value.split(',')).filter((item) => item !== ''))
    .pipe(z.array(z.string()).max(maxItems))
    .meta({ override: { type: 'array', maxItems, items: { type: 'string' } } });

/**
 * A body. What it does not know it refuses where it says something: a newer SDK's `false` or `{}` may come, but no
 * wish is silently ignored.
 */
export function body<Shape extends z.core.$ZodLooseShape>(shape: Shape) {
  return z.looseObject(shape).superRefine((value, context) => {
    for (const [key, wish] of Object.entries(value)) {
      if (Object.hasOwn(shape, key) || saysNothing(wish)) continue;
      context.addIssue({ code: 'custom', path: [key.slice(0, 64)], message: 'is not supported' });
    }
  });
}

/** A field that the SDK has and Wrenn does not: taken as long as it says nothing. */
export const unsupported = z
  .unknown()
  .refine(saysNothing, 'is not supported')
  .transform(() => undefined)
  .optional()
  .meta({ override: { description: 'Not supported: refused unless empty.' } });

function saysNothing(value: unknown): boolean {
  if (value === undefined || value === null || value === false || value === '') return true;
  return typeof value === 'object' && Object.keys(value).length === 0;
}
