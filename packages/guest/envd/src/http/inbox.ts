/**
 * The socket of datagrams, which is open from the start: what comes before anybody takes it is kept and acknowledged. That
 * is what a machine is told when it has only just booted, and the host need not wait for code to be loaded.
 *
 * Imported by server.ts: nothing here may cost start-up time.
 */
import { logError } from '../log.ts';

/** Whether it is to be acknowledged. `refuse` is told why it was not applied, if so. */
export type TakeDatagram = (datagram: Uint8Array, refuse: (why: string) => void) => boolean;

export interface Inbox {
  /** To be held: a socket that nobody holds is collected as garbage. */
  readonly opened: Promise<unknown>;
  /** From now on. What was kept comes first; it has been acknowledged. */
  giveTo(take: TakeDatagram): void;
}

const ACKNOWLEDGEMENT = Buffer.from('ok');
const REASON_MAX_CHARS = 300;

interface Kept {
  readonly datagram: Uint8Array;
  readonly refuse: (why: string) => void;
}

/** `onFirst`: when one is kept that nobody takes yet. */
export function openInbox(hostname: string, port: number, onFirst: () => void): Inbox {
  let kept: Kept | undefined;
  let take: TakeDatagram = (datagram, refuse) => {
    // The first alone, as with /init: it says whose the machine is.
    if (kept !== undefined) return false;
    kept = { datagram: new Uint8Array(datagram), refuse };
    onFirst();
    return true;
  };
  const opened = Bun.udpSocket({
    hostname,
    port,
    socket: {
      data: (self, datagram, senderPort, senderAddress) => {
        const refuse = (why: string): void => {
          self.send(`no ${why.slice(0, REASON_MAX_CHARS)}`, senderPort, senderAddress);
        };
        if (take(datagram, refuse)) self.send(ACKNOWLEDGEMENT, senderPort, senderAddress);
      },
    },
  }).catch((error: unknown) => logError(`no datagrams on port ${port}`, error));
  return {
    opened,
    giveTo: (next) => {
      take = next;
      if (kept !== undefined && !next(kept.datagram, kept.refuse)) kept.refuse('these are no settings');
      kept = undefined;
    },
  };
}
