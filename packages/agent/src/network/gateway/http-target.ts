/**
 * For whom an HTTP request is, and what of its headers goes on. Node has taken the request apart, strictly; what it
 * lets pass and servers read in more than one way is refused here.
 */
import { parseHostName } from '@wrenn/host';

export interface RequestHead {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly httpVersion: string;
  /** Names and values in turn, as they came. */
  readonly rawHeaders: readonly string[];
}

export type Target = { readonly name: string } | { readonly refused: string };

/** Between two neighbours, and nothing that the next one should hear; RFC 9110, 7.6.1. */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'upgrade',
]);
const METHODS_WITH_A_BODY = new Set(['POST', 'PUT', 'PATCH']);

/** The name in `Host`, which stands there once; in the request line there must be none. */
export function targetOf({ method = '', url = '', httpVersion, rawHeaders }: RequestHead): Target {
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return { refused: 'It is of another version of HTTP.' };
  // `GET http://other/` and `CONNECT other` are for whom they say, whatever `Host` says.
  if (!url.startsWith('/') && !(url === '*' && method === 'OPTIONS')) {
    return { refused: 'Its request line names a server; that is for proxies.' };
  }
  const hosts = valuesOf(rawHeaders, 'host');
  if (hosts.length !== 1) return { refused: 'It has no Host, or several.' };
  const encodings = valuesOf(rawHeaders, 'transfer-encoding');
  if (encodings.length > 1 || encodings.some((value) => value.trim().toLowerCase() !== 'chunked')) {
    return { refused: 'Its Transfer-Encoding is not supported.' };
  }
  const name = hostOf(hosts[0] ?? '');
  return name === undefined ? { refused: 'Its Host is no name of a host.' } : { name };
}

/** Without the port. Undefined for addresses too. */
export function hostOf(value: string): string | undefined {
  const [, host = ''] = /^([^:]{1,254})(?::\d{0,5})?$/.exec(value.trim()) ?? [];
  return parseHostName(host);
}

/** Names and values in turn, without those that are for us alone. */
export function endToEnd(rawHeaders: readonly string[], ...alsoWithout: readonly string[]): string[] {
  const named = valuesOf(rawHeaders, 'connection').flatMap((value) => value.split(','));
  const without = new Set([...HOP_BY_HOP, ...alsoWithout, ...named.map((name) => name.trim().toLowerCase())]);
  // Whoever lists these wants to be misunderstood behind us.
  for (const kept of ['host', 'content-length', 'transfer-encoding']) {
    if (!alsoWithout.includes(kept)) without.delete(kept);
  }
  return pairsOf(rawHeaders).flatMap(([name, value]) =>
    without.has(name.toLowerCase()) ? [] : [name, value],
  );
}

/** Node would announce a body for these in pieces, where there is none. */
export function needsLength({ method = '', rawHeaders }: RequestHead): boolean {
  return (
    METHODS_WITH_A_BODY.has(method) &&
    valuesOf(rawHeaders, 'content-length').length + valuesOf(rawHeaders, 'transfer-encoding').length === 0
  );
}

export function valuesOf(rawHeaders: readonly string[], wanted: string): string[] {
  return pairsOf(rawHeaders).flatMap(([name, value]) => (name.toLowerCase() === wanted ? [value] : []));
}

function pairsOf(rawHeaders: readonly string[]): [string, string][] {
  return rawHeaders.flatMap((name, at) => (at % 2 === 0 ? [[name, rawHeaders[at + 1] ?? '']] : []));
}
