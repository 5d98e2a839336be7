/** The header Range of RFC 9110 for one range of bytes. */

export type RangeVerdict =
  | { readonly kind: 'whole' }
  /** `end` is exclusive, unlike in the header. */
  | { readonly kind: 'part'; readonly start: number; readonly end: number }
  | { readonly kind: 'unsatisfiable' };

export const WHOLE: RangeVerdict = { kind: 'whole' };
const UNSATISFIABLE: RangeVerdict = { kind: 'unsatisfiable' };

/** What is no single byte range (several, another unit, nonsense) is ignored, as a server may. */
export function parseRange(header: string | null, sizeBytes: number): RangeVerdict {
  const [, first, last] = /^\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*$/i.exec(header ?? '') ?? [];
  if (first === undefined || last === undefined || (first === '' && last === '')) return WHOLE;
  if (first === '') {
    const suffix = Math.min(Number(last), sizeBytes);
    return suffix === 0 ? UNSATISFIABLE : { kind: 'part', start: sizeBytes - suffix, end: sizeBytes };
  }
  const start = Number(first);
  const end = last === '' ? sizeBytes : Math.min(Number(last) + 1, sizeBytes);
  if (last !== '' && Number(last) < start) return WHOLE;
  return start >= sizeBytes ? UNSATISFIABLE : { kind: 'part', start, end };
}
