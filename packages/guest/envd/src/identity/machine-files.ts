/** The files under /etc by which programs know their machine; supervisor.sh writes the same ones at boot. */
import { lstatSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { isMissing } from '../filesystem/fs-errors.ts';

const FILE_MODE = 0o644;
const HOSTS_MAX_BYTES = 1024 * 1024;
const DEFAULT_HOSTS = '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n';
const OWN_ADDRESS = '127.0.1.1';

export function writeHostname(hostname: string): void {
  replaceFile('/etc/hostname', `${hostname}\n`);
  replaceFile('/etc/hosts', hostsNaming(readHosts(), hostname));
}

export function writeMachineId(machineId: string): void {
  replaceFile('/etc/machine-id', `${machineId}\n`);
  // Where it is a link it leads to the one above; where there is none, nobody has missed it.
  const dbus = '/var/lib/dbus/machine-id';
  if (lstatSync(dbus, { throwIfNoEntry: false })?.isFile()) replaceFile(dbus, `${machineId}\n`);
}

/** Undefined where it cannot be read: then it is not the one that somebody asks for. */
export function readMachineId(): string | undefined {
  try {
    return readFileSync('/etc/machine-id', 'utf8').trim();
  } catch {
    return undefined;
  }
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

function readHosts(): string {
  try {
    const stats = lstatSync('/etc/hosts');
    // Not what a device or a pipe would give, and not more than a person has written.
    if (stats.isFile() && stats.size <= HOSTS_MAX_BYTES) return readFileSync('/etc/hosts', 'utf8');
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
  return DEFAULT_HOSTS;
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
