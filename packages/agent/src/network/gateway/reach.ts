/**
 * From a name to a connection. The gateway asks for the name's addresses itself and connects to what it has judged:
 * what a guest's own resolver says is of no weight, and no answer leads into a private network or to the host.
 */
import { Resolver } from 'node:dns/promises';
import net from 'node:net';
import { networkInterfaces } from 'node:os';
import { type Ipv4Range, parseIpv4, rangeAround, rangeContains } from '@wrenn/host';

export interface ReachOptions {
  /** What guests never reach. The addresses of this machine come on top. */
  readonly denied: readonly Ipv4Range[];
  /** Undefined is what the machine uses. */
  readonly resolvers?: readonly string[] | undefined;
  /** For the name and the connection together. */
  readonly connectMs: number;
}

/** Never rejects. */
export type Reach = (
  name: string,
  port: number,
) => Promise<net.Socket | 'unknown' | 'denied' | 'unreachable'>;

/** Of the time; the rest is for the connection. */
const LOOK_SHARE = 1 / 2;
/** Of one name; each gets its share of the time. */
const ADDRESSES_MAX = 4;
const RESOLVE_TRIES = 2;

/** Whether a guest may be led there. */
export function isPublic(address: string, denied: readonly Ipv4Range[], own = ownAddresses()): boolean {
  if (!net.isIPv4(address) || own.has(address)) return false;
  const range = rangeAround(parseIpv4(address), 32);
  return !denied.some((one) => rangeContains(one, range));
}

export function createReach({ denied, resolvers, connectMs }: ReachOptions): Reach {
  const reach: Reach = async (name, port) => {
    const endsAt = performance.now() + connectMs;
    const found = await lookUp(name, resolvers, connectMs * LOOK_SHARE);
    if (found.length === 0) return 'unknown';
    const own = ownAddresses();
    const addresses = found.filter((address) => isPublic(address, denied, own)).slice(0, ADDRESSES_MAX);
    if (addresses.length === 0) return 'denied';
    for (const [n, host] of addresses.entries()) {
      const shareMs = (endsAt - performance.now()) / (addresses.length - n);
      const socket = await connect(host, port, Math.max(1, shareMs));
      if (socket !== undefined) return socket;
    }
    return 'unreachable';
  };
  // Too many open files, say: no reason to end what others have open.
  return (name, port) => reach(name, port).catch(() => 'unreachable');
}

/** Empty where there are none, and where nobody has told in time. */
async function lookUp(
  name: string,
  resolvers: readonly string[] | undefined,
  timeoutMs: number,
): Promise<string[]> {
  // A new one each time: it reads the machine's settings, which may have changed.
  const resolver = new Resolver({ timeout: Math.ceil(timeoutMs / RESOLVE_TRIES), tries: RESOLVE_TRIES });
  if (resolvers !== undefined) resolver.setServers(resolvers);
  // Its own time is for each server and each try, and grows.
  const timer = setTimeout(() => resolver.cancel(), timeoutMs);
  try {
    // With the dot at its end it is looked for as it is, and in no search domain.
    return await resolver.resolve4(`${name}.`).catch(() => []);
  } finally {
    clearTimeout(timer);
  }
}

function connect(host: string, port: number, timeoutMs: number): Promise<net.Socket | undefined> {
  return new Promise((resolve) => {
    const socket = net.connect({ host, port, allowHalfOpen: true, noDelay: true, keepAlive: true });
    const fail = (): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(undefined);
    };
    const timer = setTimeout(fail, timeoutMs);
    socket.once('error', fail);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', fail);
      // Until whoever asked listens; the socket is closed then anyway.
      socket.on('error', () => {});
      resolve(socket);
    });
  });
}

/** Read each time: addresses come and go. */
function ownAddresses(): Set<string> {
  return new Set(
    Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address)),
  );
}
