/**
 * Who listens, by the kernel's own table (proc_pid_net(5): `/proc/net/tcp`). A connection made to find out would be the
 * program's to serve: some serve only one, and some fall over a client that says nothing and leaves.
 */
import { readFile } from 'node:fs/promises';

const TABLES = ['/proc/net/tcp', '/proc/net/tcp6'];
const LISTEN = '0A';
/** As a little-endian machine writes them: 127.0.0.1, and with IPv6 ::1 and the former's other form. */
const LOOPBACKS = new Set([
  '0100007F',
  '00000000000000000000000001000000',
  '0000000000000000FFFF00000100007F',
]);
const EVERYWHERE = /^0+$/;

/** Whether a connection to this port of the loopback would be taken. */
export async function isListening(port: number): Promise<boolean> {
  return (await listeningPorts()).has(port);
}

/** All of which that is so. */
export async function listeningPorts(): Promise<ReadonlySet<number>> {
  // Not there without IPv6.
  const texts = await Promise.all(TABLES.map((table) => readFile(table, 'latin1').catch(() => '')));
  return new Set(texts.flatMap(portsIn));
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
