/** What a sandbox may reach: checked, and what its network is told of it. */
import {
  type Ipv4Range,
  mergeRanges,
  parseHostPattern,
  parseIpv4,
  parseIpv4Range,
  rangeAround,
} from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import type { RateLimits } from '../config/rate-limits.ts';
import type { SlotEgress } from '../network/slot.ts';

/** As asked for: addresses `192.0.2.7`, ranges `192.0.2.0/24`, and names `example.com`, `*.example.com` to allow. */
export interface EgressPolicy {
  /** False closes everything that `allowOut` does not open. */
  readonly allowInternetAccess: boolean;
  /** Open although it may be in `denyOut` as well. */
  readonly allowOut: readonly string[];
  readonly denyOut: readonly string[];
}

export const OPEN_EGRESS: EgressPolicy = { allowInternetAccess: true, allowOut: [], denyOut: [] };

/** For the journal, whose lists are its own. */
export function copyOf({ allowInternetAccess, allowOut, denyOut }: EgressPolicy) {
  return { allowInternetAccess, allowOut: [...allowOut], denyOut: [...denyOut] };
}

const ENTRIES_MAX = 1024;
const ALLOW_OUT = 'network.allow_out';
const DENY_OUT = 'network.deny_out';
const EVERYWHERE = parseIpv4Range('0.0.0.0/0');

/** Throws `invalid_argument`. */
export function checkEgress(policy: EgressPolicy): EgressPolicy {
  slotEgress(policy, {});
  return policy;
}

export function isOpen({ allowInternetAccess, denyOut }: EgressPolicy): boolean {
  return allowInternetAccess && denyOut.length === 0;
}

export function slotEgress(
  { allowInternetAccess, allowOut, denyOut }: EgressPolicy,
  { networkTransmitBytesPerSecond }: RateLimits,
): SlotEgress {
  for (const [texts, field] of [
    [allowOut, ALLOW_OUT],
    [denyOut, DENY_OUT],
  ] as const) {
    if (texts.length <= ENTRIES_MAX) continue;
    throw new WrennError('invalid_argument', `${field} may have at most ${ENTRIES_MAX} entries.`, { field });
  }
  const denied = denyOut.map((text) => rangeOf(text, DENY_OUT));
  const refused = mergeRanges(allowInternetAccess ? denied : [...denied, EVERYWHERE]);
  const names = allowOut.filter(isName);
  const allowed = mergeRanges(
    allowOut.filter((text) => !isName(text)).map((text) => rangeOf(text, ALLOW_OUT)),
  );
  if (names.length === 0) return { allowed, refused };
  checkNames(names, refused);
  return {
    allowed,
    refused,
    named: { names, transmitBytesPerSecond: networkTransmitBytesPerSecond || undefined },
  };
}

/** What is neither an address nor a range, and does not look as if it were to be one. */
function isName(text: string): boolean {
  return !/^[\d./]*$/.test(text) && !text.includes(':');
}

function checkNames(names: readonly string[], refused: readonly Ipv4Range[]): void {
  for (const name of names) {
    try {
      parseHostPattern(name);
    } catch (cause) {
      throw invalidEntry(
        ALLOW_OUT,
        'An entry is an address, a range, or a name as example.com or *.example.com.',
        cause,
      );
    }
  }
  if (refused.some(({ prefixLength }) => prefixLength === 0)) return;
  throw new WrennError(
    'invalid_argument',
    `${ALLOW_OUT} has names of hosts, and not everything else is denied.`,
    {
      field: ALLOW_OUT,
      hint: `Names say what stays open of what is closed: put 0.0.0.0/0 into ${DENY_OUT} as well.`,
    },
  );
}

function rangeOf(text: string, field: string): Ipv4Range {
  try {
    return text.includes('/') ? parseIpv4Range(text) : rangeAround(parseIpv4(text), 32);
  } catch (cause) {
    const names = field === DENY_OUT ? ' Names can only be allowed.' : '';
    throw invalidEntry(field, `An entry is an IPv4 address or a range, as 192.0.2.0/24.${names}`, cause);
  }
}

function invalidEntry(field: string, hint: string, cause: unknown): WrennError {
  return new WrennError('invalid_argument', `${field}: ${WrennError.from(cause).message}`, {
    field,
    hint,
    cause,
  });
}
