/** IPv4 addresses and ranges as values, so that no address is ever made by pasting text. Parsed once, from outside. */
import { WrennError } from '@wrenn/protocol';

/** An address as an unsigned 32-bit number, in host order. */
export type Ipv4 = number & { readonly brand: 'ipv4' };

/** A range whose address has no bits beyond its prefix. */
export interface Ipv4Range {
  readonly address: Ipv4;
  readonly prefixLength: number;
}

/** Throws `invalid_argument` for anything but four decimal numbers without leading zeros. */
export function parseIpv4(text: string): Ipv4 {
  const parts = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text)?.slice(1);
  const canonical = parts?.every((part) => Number(part) <= 255 && String(Number(part)) === part) ?? false;
  if (parts === undefined || !canonical) {
    throw new WrennError('invalid_argument', `${shown(text)} is not an IPv4 address.`);
  }
  return address(parts.reduce((value, part) => value * 256 + Number(part), 0));
}

export function formatIpv4(value: Ipv4): string {
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.');
}

/** Parses `a.b.c.d/n`. Throws `invalid_argument`, also when the address has bits beyond the prefix. */
export function parseIpv4Range(text: string): Ipv4Range {
  const [, addressText, lengthText] = /^([\d.]+)\/(\d{1,2})$/.exec(text) ?? [];
  const prefixLength = Number(lengthText);
  if (addressText === undefined || String(prefixLength) !== lengthText || prefixLength > 32) {
    throw new WrennError('invalid_argument', `${shown(text)} is not an IPv4 range.`, {
      hint: 'Ranges are written like 10.117.0.0/16.',
    });
  }
  const range = rangeAround(parseIpv4(addressText), prefixLength);
  if (formatIpv4(range.address) === addressText) return range;
  throw new WrennError('invalid_argument', `${shown(text)} has address bits beyond its prefix.`, {
    hint: `The range that holds it is ${formatIpv4Range(range)}.`,
  });
}

export function formatIpv4Range({ address, prefixLength }: Ipv4Range): string {
  return `${formatIpv4(address)}/${prefixLength}`;
}

/** The range of that length which holds the address. */
export function rangeAround(value: Ipv4, prefixLength: number): Ipv4Range {
  const size = 2 ** (32 - prefixLength);
  return { address: address(Math.floor(value / size) * size), prefixLength };
}

export function rangeSize({ prefixLength }: Ipv4Range): number {
  return 2 ** (32 - prefixLength);
}

/** The address `offset` places into the range. Throws `internal` beyond its end. */
export function addressAt(range: Ipv4Range, offset: number): Ipv4 {
  if (Number.isInteger(offset) && offset >= 0 && offset < rangeSize(range)) {
    return address(range.address + offset);
  }
  throw new WrennError('internal', `${formatIpv4Range(range)} has no address number ${offset}.`);
}

export function rangeContains(outer: Ipv4Range, inner: Ipv4Range): boolean {
  return (
    inner.prefixLength >= outer.prefixLength &&
    rangeAround(inner.address, outer.prefixLength).address === outer.address
  );
}

export function rangesOverlap(a: Ipv4Range, b: Ipv4Range): boolean {
  return rangeContains(a, b) || rangeContains(b, a);
}

/** The same addresses, without ranges that lie in others, sorted. nft refuses sets whose intervals overlap. */
export function mergeRanges(ranges: readonly Ipv4Range[]): Ipv4Range[] {
  const sorted = [...ranges].sort((a, b) => a.prefixLength - b.prefixLength || a.address - b.address);
  const kept: Ipv4Range[] = [];
  for (const range of sorted) {
    if (!kept.some((other) => rangeContains(other, range))) kept.push(range);
  }
  return kept.sort((a, b) => a.address - b.address);
}

function address(value: number): Ipv4 {
  return value as Ipv4;
}

function shown(text: string): string {
  return JSON.stringify(text.slice(0, 40));
}
