/** The files under /etc by which programs know their machine; supervisor.sh writes the same ones at boot. */
import { lstatSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { isMissing } from '../filesystem/fs-errors.ts';

const FILE_MODE = 0o644;
const FILE_MAX_BYTES = 1024 * 1024;
const DEFAULT_HOSTS = '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n';
const OWN_ADDRESS = '127.0.1.1';

export function writeHostname(hostname: string): void {
  replaceFile('/etc/hostname', `${hostname}\n`);
  replaceFile('/etc/hosts', hostsNaming(readSmallFile('/etc/hosts') ?? DEFAULT_HOSTS, hostname));
}

export function writeMachineId(machineId: string): void {
  replaceFile('/etc/machine-id', `${machineId}\n`);
  // Where it is a link it leads to the one above; where there is none, nobody has missed it.
  const dbus = '/var/lib/dbus/machine-id';
  if (lstatSync(dbus, { throwIfNoEntry: false })?.isFile()) replaceFile(dbus, `${machineId}\n`);
}

export function readMachineId(): string | undefined {
  return readSmallFile('/etc/machine-id')?.trim();
}

export function writeNameservers(nameservers: readonly string[]): void {
  replaceFile('/etc/resolv.conf', nameservers.map((address) => `nameserver ${address}\n`).join(''));
}

/** The text with this machine's own line saying `hostname`; all that users have added stays. */
export function hostsNaming(text: string, hostname: string): string {
  const lines = text.split('\n');
  const own = lines.findIndex((line) => line.trimStart().split(/\s/, 1)[0] === OWN_ADDRESS);
  const line = `${OWN_ADDRESS} ${hostname}`;
  if (own !== -1) return lines.with(own, line).join('\n');
  return `${text}${text === '' || text.endsWith('\n') ? '' : '\n'}${line}\n`;
}

/** Undefined where there is none, or none that a person would write: a pipe would hold up everything here for ever. */
export function readSmallFile(path: string): string | undefined {
  try {
    const stats = statSync(path);
    return stats.isFile() && stats.size <= FILE_MAX_BYTES ? readFileSync(path, 'utf8') : undefined;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Written beside and renamed: nobody reads half of it, and a link or a pipe in its place is replaced, not followed. */
function replaceFile(path: string, text: string): void {
  const beside = `${path}.wrenn-new`;
  rmSync(beside, { force: true });
  try {
    writeFileSync(beside, text, { flag: 'wx', mode: FILE_MODE });
    renameSync(beside, path);
  } catch (error) {
    rmSync(beside, { force: true });
    throw error;
  }
}
