/** Values as people type them, parsed once; anything else is refused with `invalid_argument`. */
import { WrennError } from '@wrenn/protocol';

/** `512M`, `2G` or a plain number of MiB. */
export function parseMemoryMib(text: string, field: string): number {
  const match = /^(\d{1,9})([MG])?i?B?$/i.exec(text);
  if (match === null) throw invalid(field, text, 'a size such as 512M or 2G');
  return Number(match[1]) * (match[2]?.toUpperCase() === 'G' ? 1024 : 1);
}

const RATE_UNITS: Readonly<Record<string, number>> = { K: 1024, M: 1024 ** 2, G: 1024 ** 3 };

/** `512K`, `10M` or `1G`, in a second; `0`, alone without a unit, for no limit. */
export function parseBytesPerSecond(text: string, field: string): number {
  if (text === '0') return 0;
  const match = /^(\d{1,9})([KMG])i?B?(?:\/s)?$/i.exec(text);
  const unit = RATE_UNITS[match?.[2]?.toUpperCase() ?? ''];
  if (unit === undefined) throw invalid(field, text, 'a rate such as 512K, 10M or 1G, or 0 for none');
  return Number(match?.[1]) * unit;
}

export function parseCount(text: string, field: string): number {
  if (!/^\d{1,6}$/.test(text)) throw invalid(field, text, 'a whole number');
  return Number(text);
}

const UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `90`, `90s`, `5m`, `2h`, `1d` or `500ms`; without a unit seconds. */
export function parseDurationMs(text: string, field: string): number {
  const match = /^(\d{1,9})(ms|s|m|h|d)?$/.exec(text);
  if (match === null) throw invalid(field, text, 'a duration such as 30s, 5m or 2h');
  return Number(match[1]) * (UNITS_MS[match[2] ?? 's'] ?? 1000);
}

/** `NAME=value` words into a record; the last of a name counts. */
export function parsePairs(words: readonly string[], field: string): Record<string, string> {
  const pairs: Record<string, string> = {};
  for (const word of words) {
    const at = word.indexOf('=');
    if (at < 1) throw invalid(field, word, 'NAME=value');
    pairs[word.slice(0, at)] = word.slice(at + 1);
  }
  return pairs;
}

/** One end of a copy. */
export type CopyPlace =
  | { readonly kind: 'host'; readonly path: string }
  | { readonly kind: 'sandbox'; readonly id: string; readonly path: string }
  | { readonly kind: 'standard' };

/** `<id>:<path>`, a path of the host, or `-`. A host path with a colon is written with a slash before it. */
export function parseCopyPlace(text: string): CopyPlace {
  if (text === '-') return { kind: 'standard' };
  const match = /^([a-z0-9]{1,64}):(.*)$/s.exec(text);
  if (match === null) return { kind: 'host', path: text };
  const [, id = '', path = ''] = match;
  return { kind: 'sandbox', id, path: path === '' ? '.' : path };
}

function invalid(field: string, text: string, expected: string): WrennError {
  return new WrennError('invalid_argument', `${JSON.stringify(text.slice(0, 60))} is not ${expected}.`, {
    field,
  });
}
