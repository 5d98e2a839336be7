/** What one sandbox's connections have in common: who may be reached, how many may be open, and what ends them. */
import type net from 'node:net';
import type { Duplex, Readable, Transform, Writable } from 'node:stream';
import { type HostPattern, matchesHost } from '@wrenn/host';
import { GuestStream } from './guest-stream.ts';
import { createPacer, Paced, type Pacer, Shared } from './pace.ts';
import type { Reach } from './reach.ts';
import { createShares, type Share } from './share.ts';

export interface PassageLimits {
  /** Of one sandbox, connections and what is under way in them each. */
  readonly maxConnections: number;
  /** By when a client has said whom it wants. */
  readonly headMs: number;
  /** In so many bytes. */
  readonly maxHeadBytes: number;
  /** A connection in which nothing moves for so long is closed. */
  readonly idleMs: number;
}

export interface PassagePolicy {
  readonly names: readonly HostPattern[];
  readonly transmitBytesPerSecond: number | undefined;
}

export interface Passage {
  readonly limits: PassageLimits;
  allows(name: string): boolean;
  readonly reach: Reach;
  /** What the sandbox may take of the gateway's time. */
  readonly share: Share;
  /** What is read of it is read in the sandbox's share. Undefined, and the socket is closed, where there are too many. */
  admit(socket: net.Socket): GuestStream | undefined;
  /** `end` is called when the name is not allowed any more. False where there is too much under way. */
  begin(name: string, end: () => void): (() => void) | undefined;
  /** What the guest sends, at its rate. */
  send(from: Readable, to: Writable): void;
  /** To be put between a server and the guest. */
  receiver(): Transform;
  setPolicy(policy: PassagePolicy): void;
  /** Ends all of it. */
  close(): void;
}

export function createPassage(limits: PassageLimits, reach: Reach, share = createShares()()): Passage {
  const guests = new Set<GuestStream>();
  const underWay = new Set<{ readonly name: string; readonly end: () => void }>();
  let names: readonly HostPattern[] = [];
  let pacer: Pacer | undefined;
  const allows = (name: string): boolean => matchesHost(names, name);

  return {
    limits,
    allows,
    reach,
    share,
    admit: (socket) => {
      socket.on('error', () => {});
      if (guests.size >= limits.maxConnections) {
        socket.resetAndDestroy();
        return undefined;
      }
      const guest = new GuestStream(socket, share);
      guest.on('error', () => {});
      guests.add(guest);
      // Until nothing of it is left; ours may be gone before.
      socket.once('close', () => guests.delete(guest));
      return guest;
    },
    begin: (name, end) => {
      if (underWay.size >= limits.maxConnections) return undefined;
      const one = { name, end };
      underWay.add(one);
      return () => underWay.delete(one);
    },
    send: (from, to) => {
      if (pacer === undefined) {
        from.pipe(to);
        return;
      }
      pipeThrough(from, new Paced(pacer), to);
    },
    receiver: () => new Shared(share),
    setPolicy: (policy) => {
      names = policy.names;
      const rate = policy.transmitBytesPerSecond;
      pacer = rate === undefined ? undefined : createPacer(rate);
      for (const { name, end } of [...underWay]) if (!allows(name)) end();
    },
    close: () => {
      names = [];
      for (const { end } of [...underWay]) end();
      for (const guest of [...guests]) guest.resetAndDestroy();
    },
  };
}

function pipeThrough(from: Readable, between: Transform, to: Writable): void {
  from.pipe(between).pipe(to);
  const stop = (): void => void between.destroy();
  from.once('close', () => from.readableEnded || stop());
  to.once('close', stop);
}

/** A socket, or what stands for one. */
interface Side extends Duplex {
  resetAndDestroy(): unknown;
  setTimeout(timeoutMs: number, callback: () => void): unknown;
}

/**
 * Both ways, with back-pressure. A side that ends, ends the other's stream and can still hear; one that breaks off
 * breaks the other off, so that nobody takes a part for the whole. `done` once, when both are closed.
 */
export function join(guest: Side, server: Side, passage: Passage, done: () => void): void {
  const breakOff = (): void => {
    guest.resetAndDestroy();
    server.resetAndDestroy();
  };
  let open = 2;
  for (const [side, other] of [
    [guest, server],
    [server, guest],
  ] as const) {
    side.on('error', breakOff);
    side.setTimeout(passage.limits.idleMs, breakOff);
    side.once('close', () => {
      if (!side.readableEnded || !side.writableFinished) other.resetAndDestroy();
      open -= 1;
      if (open === 0) done();
    });
  }
  if (guest.destroyed || server.destroyed) {
    breakOff();
    return;
  }
  passage.send(guest, server);
  pipeThrough(server, passage.receiver(), guest);
}
