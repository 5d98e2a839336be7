/** Lists in pages: a token names the last item of a page, so that what comes and goes between does not shift it. */
import { WrennError } from '@wrenn/protocol';

export interface Position {
  readonly atMs: number;
  readonly number: bigint;
}

export interface Page<T> {
  readonly items: readonly T[];
  readonly nextToken: string | undefined;
}

export function pageOf<T>(
  all: readonly T[],
  positionOf: (item: T) => Position,
  options: { readonly order: 'asc' | 'desc'; readonly limit: number; readonly nextToken: string | undefined },
): Page<T> {
  const sign = options.order === 'asc' ? 1 : -1;
  const sorted = [...all].sort((a, b) => sign * compare(positionOf(a), positionOf(b)));
  const after = options.nextToken === undefined ? undefined : parseToken(options.nextToken);
  const rest =
    after === undefined ? sorted : sorted.filter((item) => sign * compare(positionOf(item), after) > 0);
  const items = rest.slice(0, options.limit);
  const last = items.at(-1);
  const more = rest.length > items.length && last !== undefined;
  return { items, nextToken: more ? formatToken(positionOf(last)) : undefined };
}

function compare(a: Position, b: Position): number {
  if (a.atMs !== b.atMs) return a.atMs - b.atMs;
  return a.number < b.number ? -1 : a.number > b.number ? 1 : 0;
}

function formatToken({ atMs, number }: Position): string {
  return Buffer.from(`${atMs}.${number}`).toString('base64url');
}

function parseToken(token: string): Position {
  const [, atMs, number] =
    /^(\d{1,15})\.(\d{1,18})$/.exec(Buffer.from(token, 'base64url').toString('latin1')) ?? [];
  if (atMs === undefined || number === undefined) {
    throw new WrennError('invalid_argument', 'nextToken: is not one that this API gave.', {
      field: 'nextToken',
    });
  }
  return { atMs: Number(atMs), number: BigInt(number) };
}

/** SDKs encode each key and value, make a form of them, and encode that again into the query. */
export function parseMetadataFilter(query: string): ReadonlyMap<string, string> {
  const filter = new Map<string, string>();
  for (const [key, value] of new URLSearchParams(query)) filter.set(decodeOnce(key), decodeOnce(value));
  return filter;
}

function decodeOnce(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    // It was encoded once less, and has a percent sign of its own.
    return text;
  }
}
