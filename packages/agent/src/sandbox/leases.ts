/** Who uses the guest of one sandbox: commands and transfers, how many there are, and that they end with it. */
import { setMaxListeners } from 'node:events';
import { WrennError } from '@wrenn/protocol';
import type { EnvdClient } from '../envd-client/client.ts';
import type { GuestLease } from './guest.ts';

export interface Leases {
  /** Throws `too_many_streams`. `runs` tells whether the sandbox does. */
  lend(guest: EnvdClient, runs: () => boolean): GuestLease;
  /** Ends all that there are; others may follow, when it has woken. */
  endAll(error: WrennError): void;
  /** Ends all that there are and all that come. */
  close(error: WrennError): void;
  /** A guest that stands still may be silent, and for a while after it goes on. */
  setFrozen(isFrozen: boolean): void;
  thawed(): void;
}

export function createLeases(id: string, maxLeases: number): Leases {
  let life = newLife();
  let count = 0;
  let thawedAtMs = Number.NEGATIVE_INFINITY;
  let frozen = false;
  return {
    lend: (guest, runs) => {
      if (count >= maxLeases) {
        throw new WrennError(
          'too_many_streams',
          `Sandbox ${id} has ${count} commands and transfers open already.`,
          { hint: 'Wait for some of them to end.' },
        );
      }
      count++;
      let open = true;
      return {
        envd: guest,
        signal: life.signal,
        mayBeSilent: (forMs) => !runs() || frozen || performance.now() - thawedAtMs < forMs,
        release: () => {
          if (open) count--;
          open = false;
        },
      };
    },
    endAll: (error) => {
      life.abort(error);
      life = newLife();
    },
    close: (error) => life.abort(error),
    setFrozen: (isFrozen) => {
      frozen = isFrozen;
    },
    thawed: () => {
      thawedAtMs = performance.now();
    },
  };
}

function newLife(): AbortController {
  const life = new AbortController();
  // One listener for each command and transfer, as many as are allowed.
  setMaxListeners(0, life.signal);
  return life;
}
