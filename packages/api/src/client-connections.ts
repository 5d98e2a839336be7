/**
 * How many connections one client may have open, so that nobody can take them all. Before anything is read of them, and
 * for the API and the edge together, which have one port.
 */
import type { Server } from 'node:http';
import { isIPv6, type Socket } from 'node:net';
import { closeOnceWritten, rawRefusal } from './refusals.ts';

export interface ClientConnectionLimit {
  readonly perAddress: number;
  /** Whoever speaks TLS can be told nothing before its handshake, which is work. */
  readonly isTls: boolean;
}

export interface ClientConnections {
  /** Since the start. */
  refused(): number;
}

const RETRY_S = 1;
const TOO_MANY = rawRefusal(429, 'Too many connections are open from this address.', {
  'Retry-After': String(RETRY_S),
});
/** Refusals that are still being taken; who is refused on top of them hears nothing. */
const MAX_LAST_WORDS = 64;

/** To be called when all is there that listens to the server's connections: from now on they are told of those within. */
export function limitClientConnections(
  server: Server,
  { perAddress, isTls }: ClientConnectionLimit,
): ClientConnections {
  const open = new Map<string, number>();
  let [refused, lastWords] = [0, 0];

  const refuse = (socket: Socket): void => {
    refused += 1;
    if (isTls || lastWords >= MAX_LAST_WORDS) {
      socket.destroy();
      return;
    }
    lastWords += 1;
    socket.once('close', () => {
      lastWords -= 1;
    });
    socket.on('error', () => {});
    closeOnceWritten(socket);
    socket.end(TOO_MANY);
  };

  const listeners = server.listeners('connection');
  server.removeAllListeners('connection');
  server.on('connection', (socket: Socket) => {
    const client = networkOf(socket.remoteAddress ?? '');
    const count = open.get(client) ?? 0;
    if (count >= perAddress) return refuse(socket);
    open.set(client, count + 1);
    socket.once('close', () => {
      const left = (open.get(client) ?? 1) - 1;
      if (left === 0) open.delete(client);
      else open.set(client, left);
    });
    for (const listener of listeners) Reflect.apply(listener, server, [socket]);
  });
  return { refused: () => refused };
}

/** One client has a whole network of IPv6 addresses, of 64 bits. */
export function networkOf(address: string): string {
  if (!isIPv6(address)) return address;
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  return mapped ?? expand(address).slice(0, 4).join(':');
}

function expand(address: string): string[] {
  const [head = '', tail] = address.split('%', 1).join('').split('::');
  const groups = (text: string | undefined) => (text === undefined || text === '' ? [] : text.split(':'));
  const [first, last] = [groups(head), groups(tail)];
  if (tail === undefined) return first;
  const missing = Math.max(0, 8 - first.length - last.length);
  return [...first, ...Array.from({ length: missing }, () => '0'), ...last];
}
