/** The name servers that guests are given, where the configuration names none. */
import { readFile } from 'node:fs/promises';

const PUBLIC_NAMESERVERS = ['1.1.1.1', '8.8.8.8'];
const NAMESERVERS_MAX = 3;

/**
 * The host's name servers as far as guests can use them: not its own loopback, and not IPv6. Where none is
 * left, public ones.
 */
export function nameserversFrom(resolvConf: string): string[] {
  const found = [...resolvConf.matchAll(/^\s*nameserver\s+(\d{1,3}(?:\.\d{1,3}){3})\s*$/gm)]
    .map((match) => match[1] ?? '')
    .filter((address) => !address.startsWith('127.') && address !== '0.0.0.0')
    .slice(0, NAMESERVERS_MAX);
  return found.length > 0 ? found : PUBLIC_NAMESERVERS;
}

export async function readNameservers(): Promise<string[]> {
  return nameserversFrom(await readFile('/etc/resolv.conf', 'utf8').catch(() => ''));
}
