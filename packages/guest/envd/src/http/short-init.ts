/**
 * POST /init in one datagram, for the first request of a fresh clone: an emulated CPU translates every block of code
 * anew after a restore, and this needs the fewest. So it is answered before it is applied; nothing else is answered
 * before that. Only where no program runs that could see the machine in between: the host knows when.
 *
 * The datagram is the access token, a line feed, and the body of an /init. What it does not prove gets no answer; on a
 * machine that has no token yet, which has only just booted, nothing has to be proven, as for an /init. What
 * could not be applied after all is told in a second one, `no` and the reason: the host ends the machine then. They come by
 * inbox.ts.
 */
import type { AccessToken } from '../auth.ts';
import { logError } from '../log.ts';
import type { TakeDatagram } from './inbox.ts';
import type { Init } from './init.ts';

export interface ShortInit {
  readonly take: TakeDatagram;
  /** Applies what was taken, if that is still to be done. Why it failed, as long as no /init has succeeded since. */
  settle(): string | undefined;
  /** A whole /init has succeeded. */
  replaced(): void;
}

const LINE_FEED = 10;

interface Pending {
  readonly body: Uint8Array;
  readonly refuse: (why: string) => void;
}

export function createShortInit(accessToken: AccessToken, init: Init): ShortInit {
  let pending: Pending | undefined;
  let failure: string | undefined;

  function settle(): string | undefined {
    if (pending === undefined) return failure;
    const { body, refuse } = pending;
    pending = undefined;
    try {
      init.apply(Buffer.from(body).toString('utf8'));
      failure = undefined;
    } catch (error) {
      logError('the settings were not applied', error);
      failure = `the settings were not applied: ${error instanceof Error ? error.message : String(error)}`;
      refuse(failure);
    }
    return failure;
  }

  function take(datagram: Uint8Array, refuse: (why: string) => void): boolean {
    // An earlier one comes first, whoever was slow: it may be the one that sets the token.
    settle();
    const begin = accessToken.isSet() ? accessToken.leads(datagram) : datagram.indexOf(LINE_FEED) + 1;
    if (begin === undefined || begin === 0) return false;
    // A copy: the socket's memory is the next datagram's.
    pending = { body: new Uint8Array(datagram.subarray(begin)), refuse };
    setTimeout(settle, 0);
    return true;
  }

  return {
    take,
    settle,
    replaced: () => {
      failure = undefined;
    },
  };
}
