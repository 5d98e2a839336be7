/** What a sandbox may reach: checked, and what its network is told of it. */
import { type Ipv4Range, mergeRanges, parseIpv4, parseIpv4Range, rangeAround } from '@wrenn/host';
import { WrennError } from '@wrenn/protocol';
import type { SlotEgress } from '../network/slot.ts';

/** As asked for: addresses `192.0.2.7` and ranges `192.0.2.0/24`. */
export interface EgressPolicy {
  /** False closes everything that `allowOut` does not open, names included. */
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
const EVERYWHERE = parseIpv4Range('0.0.0.0/0');

/** Throws `invalid_argument`. */
export function checkEgress(policy: EgressPolicy): EgressPolicy {
  slotEgress(policy);
  return policy;
}

export function isOpen({ allowInternetAccess, denyOut }: EgressPolicy): boolean {
  return allowInternetAccess && denyOut.length === 0;
}

export function slotEgress({ allowInternetAccess, allowOut, denyOut }: EgressPolicy): SlotEgress {
  const refused = rangesOf(denyOut, 'network.deny_out');
  return {
    allowed: mergeRanges(rangesOf(allowOut, 'network.allow_out')),
    refused: mergeRanges(allowInternetAccess ? refused : [...refused, EVERYWHERE]),
  };
}

function rangesOf(texts: readonly string[], field: string): Ipv4Range[] {
  if (texts.length > ENTRIES_MAX) {
    throw new WrennError('invalid_argument', `${field} may have at most ${ENTRIES_MAX} entries.`, { field });
  }
  return texts.map((text) => {
    try {
      return text.includes('/') ? parseIpv4Range(text) : rangeAround(parseIpv4(text), 32);
    } catch (cause) {
      const { message } = WrennError.from(cause);
      throw new WrennError('invalid_argument', message, {
        field,
        hint: 'An entry is an IPv4 address or a range, as 192.0.2.0/24. Names of hosts are not supported.',
        cause,
      });
    }
  });
}
