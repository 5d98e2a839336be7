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
  for (const table of TABLES) {
    // Not there without IPv6.
    const text = await readFile(table, 'latin1').catch(() => '');
    if (listensIn(text, port)) return true;
  }
  return false;
}

export function listensIn(table: string, port: number): boolean {
  const wanted = port.toString(16).toUpperCase().padStart(4, '0');
  return table.split('\n').some((line) => {
    const [, local = '', , state] = line.trim().split(/\s+/);
    const [address = '', number] = local.split(':');
    return state === LISTEN && number === wanted && (LOOPBACKS.has(address) || EVERYWHERE.test(address));
  });
}
