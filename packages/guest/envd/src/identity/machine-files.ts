/** The files under /etc by which programs know their machine; supervisor.sh writes the same ones at boot. */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { isMissing } from '../filesystem/fs-errors.ts';

const { O_NOFOLLOW, O_NONBLOCK, O_WRONLY } = constants;
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

/**
 * In place where it is a file already: a clone does this before anything else, and a program's first use of each system
 * call costs an emulated guest a millisecond or two. A link or a pipe there is replaced, not followed.
 */
function replaceFile(path: string, text: string): void {
  if (!overwrite(path, text)) replace(path, text);
}

/** False where there is no plain file. */
function overwrite(path: string, text: string): boolean {
  let fd: number;
  try {
    fd = openSync(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch {
    return false;
  }
  try {
    if (!fstatSync(fd).isFile()) return false;
    const bytes = writeSync(fd, text, 0);
    ftruncateSync(fd, bytes);
    return bytes === Buffer.byteLength(text);
  } finally {
    closeSync(fd);
  }
}

/** Written beside and renamed: nobody reads half of it. */
function replace(path: string, text: string): void {
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
