/**
 * Who listens, by the kernel's own table (proc_pid_net(5): `/proc/net/tcp`). A connection made to find out would be the
 * program's to serve: some serve only one, and some fall over a client that says nothing and leaves.
 */
import { open } from 'node:fs/promises';
import { isMissing } from '../filesystem/fs-errors.ts';

const TABLES = ['/proc/net/tcp', '/proc/net/tcp6'];
const LISTEN = '0A';
/** As a little-endian machine writes them: 127.0.0.1, and with IPv6 ::1 and the former's other form. */
const LOOPBACKS = new Set([
  '0100007F',
  '00000000000000000000000001000000',
  '0000000000000000FFFF00000100007F',
]);
const EVERYWHERE = /^0+$/;
const PIECE_BYTES = 64 * 1024;

/** Whether a connection to this port of the loopback would be taken. */
export async function isListening(port: number): Promise<boolean> {
  return (await listeningPorts()).has(port);
}

/** All of which that is so. */
export async function listeningPorts(): Promise<ReadonlySet<number>> {
  // Not there without IPv6.
  const ports = await Promise.all(TABLES.map((table) => listenersOf(table).catch(noneIfMissing)));
  return new Set(ports.flat());
}

/** The kernel tells those who listen first; of the others there may be tens of thousands. */
async function listenersOf(table: string): Promise<number[]> {
  const handle = await open(table);
  try {
    const ports: number[] = [];
    const buffer = Buffer.allocUnsafe(PIECE_BYTES);
    let rest = '';
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, null);
      if (bytesRead === 0) return ports;
      const lines = (rest + buffer.toString('latin1', 0, bytesRead)).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const [slot = '', , , state] = line.trim().split(/\s+/, 4);
        if (!slot.endsWith(':')) continue;
        if (state !== LISTEN) return ports;
        ports.push(...portsIn(line));
      }
    }
  } finally {
    await handle.close();
  }
}

export function portsIn(table: string): number[] {
  const ports: number[] = [];
  for (const line of table.split('\n')) {
    const [, local = '', , state] = line.trim().split(/\s+/);
    const [address = '', number = ''] = local.split(':');
    if (state !== LISTEN || !(LOOPBACKS.has(address) || EVERYWHERE.test(address))) continue;
    ports.push(Number.parseInt(number, 16));
  }
  return ports;
}

function noneIfMissing(error: unknown): number[] {
  if (isMissing(error)) return [];
  throw error;
}
